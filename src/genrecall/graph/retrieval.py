"""A bundle as pieces of TensorFlow graphs: look-ups, prompts and generative recall, for any ``tf.function``.

graph = Retrieval.open("runs/quickstart/bundle", engines=["/tmp/engine.sock"])

@tf.function
def answer(history):                                 # string (R, T), oldest first, padded with ""
    items = graph.items_of(history)
    found = graph.recall(graph.prompts(items), k=10, exclude=items)
    return graph.ids_of(found.items), found.scores
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from genrecall.graph.ops import Leaves, Window, behavior_sequence, compiled, gen_recall
from genrecall.graph.runtime import tensorflow
from genrecall.prompt.layout import Layout

tf = tensorflow()
_as_written = tf.autograph.experimental.do_not_convert  # graph code already: nothing for AutoGraph to rewrite


class Found(NamedTuple):
    """Lists of R rows.

    Attributes:
        items: int32 (R, k) item indices, best first, padded with -1.
        scores: float32 (R, k), padded with -inf.
        status: int32 (R,), see ``ops.Status``.
        state: float32 (R, E) of the model after the prompt, where it was asked for; NaN where the engine sent none.
    """

    items: Any
    scores: Any
    status: Any
    state: Any = None


class Retrieval(tf.Module):  # type: ignore[misc]
    """Tensors of a bundle, and what they make possible inside a graph.

    Args:
        item_ids: I ids.
        written: I written SIDs.
        sids: int32 (I, L).
        counts: int (I,), training events: of one SID's items the one with most comes first.
        layout: of the prompts.
        bundle: digest that engines must serve.
        beam: W where none is asked for.
        items_per_sid: at most so many items of one SID in a list.
        engines: paths of Unix sockets; can be set again in a loaded graph (``graph.engines.assign``).
        window: what of a history is read.

    Attributes:
        engines: string variable (n,).
        digest: of the bundle.
        num_items: I.
    """

    def __init__(
        self,
        *,
        item_ids: Sequence[str],
        written: Sequence[str],
        sids: np.ndarray,
        counts: np.ndarray,
        layout: Layout,
        bundle: str,
        beam: int,
        items_per_sid: int | None,
        engines: Sequence[str],
        window: Window | None = None,
    ) -> None:
        super().__init__(name="retrieval")
        compiled()
        self.engines = tf.Variable(list(engines), dtype=tf.string, shape=[None], trainable=False, name="engines")
        self._layout, self._window = layout, window or Window()
        self._beam, self._items_per_sid = beam, items_per_sid
        self.digest, self.num_items = bundle, len(item_ids)
        places = tf.lookup.KeyValueTensorInitializer(
            tf.constant(list(item_ids)), tf.range(len(item_ids), dtype=tf.int32)
        )
        self._index = tf.lookup.StaticHashTable(places, default_value=-1)
        # One cell more than there are items, so that the padding -1 finds an empty text at the end.
        self._ids, self._written = (tf.constant([*texts, ""]) for texts in (item_ids, written))
        self._pieces = tf.constant(layout.pieces, tf.int32)
        self._leaves = _leaves(sids, counts)

    @classmethod
    def open(cls, bundle: Path | str, engines: Sequence[str], window: Window | None = None) -> Self:
        """Read a bundle of one generator.

        Raises:
            ArtifactError: no bundle, or a damaged one.
            ConfigError: a bundle of several generators.
        """
        from genrecall.artifacts import open_artifact
        from genrecall.bundle.contents import Contents
        from genrecall.bundle.engine import require_one_generator
        from genrecall.bundle.export import KIND, parts_of
        from genrecall.recall.generator import open_prompts
        from genrecall.recall.popularity import PopularityChannel

        config = open_artifact(bundle, kind=KIND, verify=False).manifest.config
        require_one_generator(len(config["spaces"]))
        contents = Contents.open(bundle)
        popularity = contents.channels["popularity"]
        assert isinstance(popularity, PopularityChannel)
        prompts = open_prompts(contents.path / parts_of(0)[1], contents.table, contents.items.titles)
        return cls(
            item_ids=contents.items.ids,
            written=[contents.table.written(item) for item in range(len(contents.items))],
            sids=contents.table.sids,
            counts=popularity.counts,
            layout=prompts.layout(),
            bundle=contents.digest,
            beam=config["generative"]["beam"],
            items_per_sid=config["generative"]["items_per_sid"],
            engines=engines,
            window=window,
        )

    @_as_written
    def items_of(self, ids: Any) -> Any:
        """Ragged int32 (R, None) item indices of ids, string (R, T) or ragged; -1 for what the bundle does not know."""
        if isinstance(ids, tf.RaggedTensor):
            return ids.with_values(self._index.lookup(ids.values))
        return _ragged(self._index.lookup(tf.reshape(ids, [-1])), ids)

    @_as_written
    def prompts(self, items: Any, times: Any = None, now: Any = None, head: Any = None) -> Any:
        """Prompts, ragged int32 (R, None), equal to the bundle's own.

        Args:
            items: of ``items_of``, oldest first.
            times: int64 seconds parallel to the ids, (R, T) or ragged; None where unknown.
            now: int64 seconds, one or R, for ``window``; None is the time at which the graph runs.
            head: ragged int32 (R, None), tokens of a profile sentence in place of the bundle's head.
        """
        if times is not None and not isinstance(times, tf.RaggedTensor):
            times = tf.RaggedTensor.from_row_splits(tf.reshape(times, [-1]), items.row_splits, validate=False)
        if now is None:
            now = tf.cast(tf.timestamp(), tf.int64) if self._window.window_s else tf.zeros([], tf.int64)
        return behavior_sequence(items, times, now, self._layout, self._pieces, self._window, head)

    @_as_written
    def recall(
        self,
        prompts: Any,
        *,
        k: Any,
        beam: Any = None,
        deadline_ms: Any = 0.0,
        exclude: Any = None,
        users: Any = None,
        state_width: int = 0,
    ) -> Found:
        """Items after each prompt; see ``ops.gen_recall``. ``beam`` None is the bundle's."""
        found = gen_recall(
            prompts,
            k=k,
            beam=self._beam if beam is None else beam,
            deadline_ms=deadline_ms,
            engines=self.engines,
            leaves=self._leaves,
            exclude=exclude,
            users=users,
            bundle=self.digest,
            items_per_sid=self._items_per_sid,
            state_width=state_width,
        )
        return Found(*found)

    @_as_written
    def ids_of(self, items: Any) -> Any:
        """Item ids of indices; "" for -1."""
        return tf.gather(self._ids, tf.where(items < 0, self.num_items, items))

    @_as_written
    def written_of(self, items: Any) -> Any:
        """Written SIDs of indices; "" for -1."""
        return tf.gather(self._written, tf.where(items < 0, self.num_items, items))


def _ragged(values: Any, dense: Any) -> Any:
    """The rows of a dense (R, T) tensor as a ragged one of whole rows: padding is left to the operators."""
    shape = tf.shape(dense, out_type=tf.int64)
    splits = tf.range(shape[0] + 1) * shape[1]
    return tf.RaggedTensor.from_row_splits(values, splits, validate=False)


def _leaves(sids: np.ndarray, counts: np.ndarray) -> Leaves:
    """SIDs in order, and the items of each by the generative channel's rule: training count, then index."""
    order = np.lexsort((np.arange(len(sids)), -np.asarray(counts, dtype=np.int64), *sids.T[::-1]))
    ranked = sids[order]
    first = np.ones(len(sids), dtype=bool)
    first[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    begin = np.append(np.flatnonzero(first), len(sids))
    return Leaves(
        sids=tf.constant(ranked[first], tf.int32),
        begin=tf.constant(begin, tf.int32),
        items=tf.constant(order, tf.int32),
    )
