"""A ranker as a piece of TensorFlow graphs: sparse rows by ``SparseRank``, the network as matrix products.

    x_0 = [e…; z…; v; u; w; u∘w],   logit = head [x_L; y_K]          (docs/concepts/ranking.md, which defines all of it)

The files are read by their format alone. Deviation: the generator's state comes to a graph only from engines that send
it; a graph without it takes the training mean in its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import load_file

from genrecall.errors import ArtifactError
from genrecall.graph.counted import Counted
from genrecall.graph.ops import require_compiled
from genrecall.graph.retrieval import Found
from genrecall.graph.runtime import tensorflow
from genrecall.graph.sparse import Plan, plan_of

tf = tensorflow()
_Module: Any = tf.Module
_as_written = tf.autograph.experimental.do_not_convert
_FORMAT = 2
_FILES = ("tables", "vocabularies", "items", "relations")


class Ranking(_Module):
    """Scores candidates inside a graph.

    Args:
        schema, network: as ``ranker.json`` holds them.
        tables, vocabularies, items, relations, weights: as the five safetensors files hold them.

    Attributes:
        profile: names of the profile columns that requests tell as texts, in order.
        state_width: E of the generator's state that it reads; 0: none.
        tables: variables, so that deltas can be applied to a loaded graph.
    """

    def __init__(
        self,
        schema: Mapping[str, Any],
        network: Mapping[str, Any],
        *,
        tables: Mapping[str, np.ndarray],
        vocabularies: Mapping[str, np.ndarray],
        items: Mapping[str, np.ndarray],
        relations: Mapping[str, np.ndarray],
        weights: Mapping[str, np.ndarray],
    ) -> None:
        super().__init__(name="ranking")
        self._plan: Plan = plan_of(schema, vocabularies)
        plan = self._plan
        self.profile = list(plan.profile)
        self._evidence, self.state_width = list(schema["evidence"]), int(schema["state"])
        self._counted = Counted(schema["numbers"], items, relations)
        self._attention = network["pooling"] == "attention"
        self.tables = [tf.Variable(tables[name].astype(np.float32), trainable=False) for name in plan.names]
        self._offsets = [tf.constant(items[f"{name}.offsets"], tf.int64) for name in plan.item_texts]
        self._codes = [tf.constant(items[f"{name}.codes"].view(np.int64)) for name in plan.item_texts]
        self._numbers = [tf.constant(items[name], tf.float64) for name in plan.item_numbers]
        self._inputs = [tf.constant(plan.edges), tf.constant(plan.codes), tf.constant(plan.rows)]
        self._vectors = tf.constant(items["vectors"]) if schema["vectors"] else None
        self._w = {name: tf.constant(array) for name, array in weights.items()}
        self._layers = {part: len({n for n in weights if n.startswith(f"{part}.") and n.endswith(last)})
                        for part, last in (("cross", ".bias"), ("deep", ".bias"))}  # fmt: skip

    @classmethod
    def open(cls, directory: Path | str) -> Self:
        """Read a ranker's files: a ranker artifact, or a bundle's ``ranker/``.

        Raises:
            ArtifactError: a ranker of another format.
        """
        directory = Path(directory)
        told = json.loads((directory / "ranker.json").read_text(encoding="utf-8"))
        if told["format"] != _FORMAT:
            raise ArtifactError(
                f"{directory} is a ranker of another format",
                seen=told["format"],
                allowed=str(_FORMAT),
                fix="train it again with this version",
            )
        files = {name: load_file(directory / f"{name}.safetensors") for name in _FILES}
        return cls(told["schema"], told["network"], **files, weights=load_file(directory / "network.safetensors"))

    @_as_written
    def logits(
        self,
        items: Any,
        history: Any,
        *,
        users: Any = None,
        profile: Mapping[str, Any] | None = None,
        evidence: Mapping[str, Any] | None = None,
        state: Any = None,
    ) -> Any:
        """float32 (R, k) logits; -inf for the candidate -1.

        Args:
            items: int32 (R, k) candidates.
            history: ragged int32 (R, None) item indices, oldest first; -1 is left out.
            users: string (R,) ids; None: nobody is named.
            profile: string (R,) by name of ``profile``; those that are missing have no value.
            evidence: float32 (R, k) by name of the schema's evidence; what is missing is not known.
            state: float32 (R, E) of the generator; None: not known.
        """
        plan, nothing = self._plan, tf.zeros([0], tf.string)
        told = profile or {}
        embedded, *past = _flat(
            require_compiled().sparse_rank(
                candidates=items,
                history=history.values,
                history_splits=history.row_splits,
                users=nothing if users is None else users,
                profiles=[told.get(name, nothing) for name in plan.profile],
                item_offsets=self._offsets,
                item_codes=self._codes,
                item_numbers=self._numbers,
                edges=self._inputs[0],
                vocabulary=self._inputs[1],
                vocabulary_rows=self._inputs[2],
                tables=[table.read_value() for table in self.tables],
                num_behaviours=len(plan.behaviours),
                **plan.attributes,
            )
        )
        embedded = tf.ensure_shape(embedded, [None, None, sum(table.shape[1] for table in self.tables)])
        parts = [embedded, *(self._pooled(b, embedded, rows) for b, rows in enumerate(past))]
        parts += self._recalled(items, history, evidence or {}, state)
        x = tf.concat(parts, axis=-1)
        logits = self._network(x)
        return tf.where(items < 0, -np.inf, logits)

    @_as_written
    def rank(self, found: Found, history: Any, k: Any, **told: Any) -> Found:
        """The best ``k`` of what was found, by logit; ties stay in the order of recall. See ``logits``.

        What recall says of its own lists (``sid_score``, ``near.generative``) is filled in where the schema wants it.
        """
        listed = found.items >= 0
        place = tf.cast(tf.range(tf.shape(found.items)[1]), tf.float32) + 1.0
        own = {
            "sid_score": tf.where(listed, found.scores, np.nan),
            "near.generative": tf.where(listed, 1.0 / (place + 5.0)[None, :], 0.0),
        }
        state = found.state if self.state_width else None
        own_told = {"state": state, **told, "evidence": {**own, **told.get("evidence", {})}}
        scores = self.logits(found.items, history, **own_told)
        best = tf.math.top_k(scores, k=tf.minimum(k, tf.shape(scores)[1]))
        return found._replace(items=tf.gather(found.items, best.indices, batch_dims=1), scores=best.values)

    def _pooled(self, behaviour: int, embedded: Any, rows: Any) -> Any:
        """z (R, k, w): the history as the candidate sees it."""
        name, like = self._plan.behaviours[behaviour]
        begin = sum(table.shape[1] for table in self.tables[:like])
        keys = tf.gather(self.tables[like], tf.maximum(rows, 0))
        there = tf.cast(rows >= 0, tf.float32)
        count = tf.maximum(tf.reduce_sum(there, 1), 1.0)[:, None, None]
        width = int(self.tables[like].shape[1])
        query = embedded[:, :, begin : begin + width]
        if not self._attention:
            mean = tf.reduce_sum(keys * there[:, :, None], 1, keepdims=True) / count
            return tf.broadcast_to(mean, tf.shape(query))
        inner, outer = self._w[f"attention.{name}.inner.weight"], self._w[f"attention.{name}.outer.weight"]
        of_q, of_k, of_both, of_less = tf.split(inner, 4, axis=1)
        hidden = tf.matmul(query, of_q + of_less, transpose_b=True)[:, :, None]
        hidden += tf.matmul(keys, of_k - of_less, transpose_b=True)[:, None] + self._w[f"attention.{name}.inner.bias"]
        hidden += tf.matmul(query[:, :, None] * keys[:, None], of_both, transpose_b=True)
        weights = (
            tf.matmul(tf.nn.relu(hidden), outer, transpose_b=True)[..., 0] + self._w[f"attention.{name}.outer.bias"]
        )
        return tf.matmul(weights * there[:, None], keys) / count

    def _recalled(self, items: Any, history: Any, evidence: Mapping[str, Any], state: Any) -> list[Any]:
        """v, u, w and u∘w, as far as the schema has them, (R, k, ·) each."""
        shape, parts, u = tf.shape(items), [], None
        unknown = tf.fill(shape, np.float32(np.nan))
        told = [*(evidence.get(name, unknown) for name in self._evidence), *self._counted.of(items, history)]
        if told:
            v = (tf.stack(told, axis=-1) - self._w["told.mean"]) / self._w["told.spread"]
            parts.append(tf.where(tf.math.is_nan(v), 0.0, v))
        if self.state_width:
            known = tf.fill([shape[0], self.state_width], np.float32(np.nan)) if state is None else state
            known = (known - self._w["state.mean"]) / self._w["state.spread"]
            known = tf.where(tf.math.is_nan(known), 0.0, known)
            u = tf.matmul(known, self._w["state.weight"], transpose_b=True) + self._w["state.bias"]
            u = tf.broadcast_to(u[:, None], tf.concat([shape, [tf.shape(u)[-1]]], 0))
            parts.append(u)
        if self._vectors is not None:
            w = tf.matmul(tf.gather(self._vectors, tf.maximum(items, 0)), self._w["vector.weight"], transpose_b=True)
            parts += [w] if u is None else [w, u * w]
        return parts

    def _network(self, x: Any) -> Any:
        crossed, hidden = x, x
        for layer in range(self._layers["cross"]):
            down, up = self._w[f"cross.{layer}.down"], self._w[f"cross.{layer}.up"]
            low = tf.matmul(tf.matmul(crossed, down, transpose_b=True), up, transpose_b=True)
            crossed = x * (low + self._w[f"cross.{layer}.bias"]) + crossed
        for layer in range(self._layers["deep"]):
            weight, bias = self._w[f"deep.{layer}.weight"], self._w[f"deep.{layer}.bias"]
            hidden = tf.nn.relu(tf.matmul(hidden, weight, transpose_b=True) + bias)
        last = tf.concat([crossed, hidden], -1) if self._layers["deep"] else crossed
        return (tf.matmul(last, self._w["head.weight"], transpose_b=True) + self._w["head.bias"])[..., 0]


def _flat(outputs: Any) -> Sequence[Any]:
    """An operator's outputs, lists among them, as one list."""
    return [part for output in outputs for part in (output if isinstance(output, list | tuple) else [output])]
