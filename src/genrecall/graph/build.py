"""The standard graph of a bundle: histories in, lists out, with a place for the caller's own operators.

history → items → prompt → generative recall → (between) → ids, SIDs, scores, status
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.artifacts import Artifact
from genrecall.errors import ConfigError
from genrecall.graph.ops import Window
from genrecall.graph.rank import Ranking
from genrecall.graph.retrieval import Found, Retrieval, tf
from genrecall.graph.saved import save

_RANKER = "ranker"
Between = Callable[[Retrieval, Found, Mapping[str, Any]], Found]
"""The caller's operators: the graph's pieces, what was found, and the inputs by name, to what is answered."""


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Settings of the standard graph.

    Attributes:
        engines: paths of the engines' sockets; can be changed when the graph is served.
        window: what of a history is read.
        exclude_seen: leave out the items of the history.
        k, deadline_ms: of requests that name none.
        candidates: items that a ranker orders, where there is one.
    """

    engines: Sequence[str]
    window: Window = field(default_factory=Window)
    exclude_seen: bool = True
    k: int = 10
    deadline_ms: float = 250.0
    candidates: int = 100

    def __post_init__(self) -> None:
        if not self.engines or any(not 0 < len(path.encode()) < 108 for path in self.engines):
            raise ConfigError(
                "a graph needs an engine to ask",
                seen=", ".join(self.engines) or "no engine",
                allowed="paths of Unix sockets, of at most 107 bytes",
                fix="give --engine with the --socket of `genrecall engine serve`; repeat it for more engines",
            )


def build(
    bundle: Path | str,
    out: Path | str,
    config: GraphConfig,
    *,
    between: Between | None = None,
    ranker: Path | str | None = None,
) -> Artifact:
    """Write the standard graph of a bundle as a SavedModel.

    Its signature takes ``history`` string (R, T), oldest first and padded with "", and optionally ``times`` int64
    (R, T) seconds, ``user_id`` string (R,), ``k`` int32 (1,), ``deadline_ms`` float32 (1,) and, for a ranker,
    ``profile_<column>`` string (R,); it returns ``item_id`` and ``sid`` string (R, k), ``score`` float32 (R, k) (the
    ranker's logits, where there is one) and ``status`` int32 (R,).

    Args:
        bundle: directory.
        out: directory.
        config: settings.
        between: the caller's operators, after ranking.
        ranker: directory of a ranker's files; None takes the bundle's own, if it has one.

    Raises:
        ArtifactError, ConfigError: see ``Retrieval.open`` and ``Ranking.open``.
        CompilerError: the operators cannot be compiled here.
    """
    graph = Retrieval.open(bundle, config.engines, config.window)
    own = Path(bundle) / _RANKER
    ranking = Ranking.open(ranker or own) if ranker is not None or own.is_dir() else None
    graph.ranking = ranking  # what is an attribute is saved
    profile = {f"profile_{name}": name for name in ([] if ranking is None else ranking.profile)}

    def answer(**given: Any) -> dict[str, Any]:
        items, k = graph.items_of(given["history"]), tf.reshape(given["k"], [])
        wide = k if ranking is None else tf.minimum(tf.maximum(k, config.candidates), graph.num_items)
        # No times at all are a (0, 0) tensor: then no session and no window is known.
        found = graph.recall(
            graph.prompts(items, _times(given["times"], items)),
            k=wide,
            deadline_ms=given["deadline_ms"],
            exclude=items if config.exclude_seen else None,
            users=given["user_id"],
            state_width=0 if ranking is None else ranking.state_width,
        )
        if ranking is not None:
            told = {name: given[written] for written, name in profile.items()}
            found = ranking.rank(found, items, k, users=given["user_id"], profile=told)
        if between is not None:
            found = between(graph, found, given)
        return {
            "item_id": graph.ids_of(found.items),
            "sid": graph.written_of(found.items),
            "score": tf.maximum(found.scores, tf.float32.min),  # JSON knows no infinity
            "status": found.status,
        }

    inputs = {
        "history": tf.TensorSpec([None, None], tf.string),
        "times": tf.TensorSpec([None, None], tf.int64),
        "user_id": tf.TensorSpec([None], tf.string),
        "k": tf.TensorSpec([1], tf.int32),
        "deadline_ms": tf.TensorSpec([1], tf.float32),
        **{name: tf.TensorSpec([None], tf.string) for name in profile},
    }
    defaults = {
        "times": np.zeros([0, 0], np.int64),
        "user_id": np.zeros([0], object),
        "k": np.array([config.k], np.int32),
        "deadline_ms": np.array([config.deadline_ms], np.float32),
        **{name: np.zeros([0], object) for name in profile},
    }
    return save(graph, answer, inputs, out, defaults=defaults)


def _times(given: Any, items: Any) -> Any:
    """Times as the operator takes them: as many as events, or none."""
    return items.with_values(tf.reshape(given, [-1]))


def between_of(written: str) -> Between:
    """The function that ``FILE.py:NAME`` names.

    Raises:
        ConfigError: there is none.
    """
    file, _, name = written.rpartition(":")
    wrong = ConfigError(
        "the operators in between cannot be read",
        seen=written,
        allowed="FILE.py:FUNCTION, of a function (graph, found, inputs) that returns what is answered",
        fix="for example --between my_ops.py:boost_new_items",
    )
    spec = importlib.util.spec_from_file_location("between", file) if Path(file).is_file() else None
    if spec is None or spec.loader is None:
        raise wrong
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = vars(module).get(name)
    if not callable(found):
        raise wrong
    return lambda graph, lists, inputs: Found(*found(graph, lists, inputs))
