"""A ranker's numbers inside a graph, by plain TensorFlow operators; ``docs/concepts/ranking.md`` defines them.

    logged = ln(1 + number of the item)        affinity = ln(floor + Σ_{a < last} decay^a · M[h_a, j])

Sums are float64, as everywhere; only logarithms of the same sum may differ in their last bit between libraries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genrecall.graph.runtime import tensorflow

tf = tensorflow()
_Module: Any = tf.Module
_as_written = tf.autograph.experimental.do_not_convert


class Counted(_Module):
    """Numbers of candidates.

    Args:
        numbers: as the schema in ``ranker.json`` holds them.
        items, relations: as the safetensors files hold them.
    """

    def __init__(
        self, numbers: Sequence[Mapping[str, Any]], items: Mapping[str, np.ndarray], relations: Mapping[str, np.ndarray]
    ) -> None:
        super().__init__(name="counted")
        self._numbers = [dict(number) for number in numbers]
        self._logged = {n["name"]: tf.constant(_logged(items[n["of"]])) for n in numbers if n["kind"] == "logged"}
        self._relations = {
            name: tuple(tf.constant(relations[f"{name}.{part}"]) for part in ("offsets", "items", "values"))
            for name in {n["of"] for n in numbers if n["kind"] == "affinity"}
        }

    @_as_written
    def of(self, items: Any, history: Any) -> list[Any]:
        """float32 (R, k) a number; ``items`` int32 (R, k), ``history`` ragged int32 (R, None), -1 left out."""
        known = tf.ragged.boolean_mask(history, history >= 0)
        return [
            tf.gather(self._logged[n["name"]], tf.maximum(items, 0))
            if n["kind"] == "logged"
            else self._affinity(n, items, known)
            for n in self._numbers
        ]

    def _affinity(self, number: Mapping[str, Any], items: Any, history: Any) -> Any:
        offsets, others, values = self._relations[number["of"]]
        newest = history[:, -number["last"] :]
        row = tf.cast(newest.value_rowids(), tf.int64)
        age = newest.row_splits[1:] - 1
        age = tf.gather(age, row) - tf.range(tf.size(row, tf.int64))
        own = tf.ragged.range(tf.gather(offsets, newest.values), tf.gather(offsets, newest.values + 1))
        event, where = own.value_rowids(), own.values
        said = tf.gather(number["decay"] ** tf.cast(age, tf.float64), event) * tf.cast(
            tf.gather(values, where), tf.float64
        )
        many = len(offsets) - 1
        key = tf.gather(row, event) * many + tf.cast(tf.gather(others, where), tf.int64)
        wanted = tf.range(tf.shape(items, tf.int64)[0])[:, None] * many + tf.cast(tf.maximum(items, 0), tf.int64)
        distinct, _ = tf.unique(tf.sort(tf.reshape(wanted, [-1])))
        at = tf.searchsorted(distinct, key)
        there = tf.gather(distinct, tf.minimum(at, tf.size(distinct) - 1)) == key
        total = tf.math.unsorted_segment_sum(said[there], at[there], tf.size(distinct))
        found = tf.gather(total, tf.searchsorted(distinct, tf.reshape(wanted, [-1])))
        return tf.reshape(tf.cast(tf.math.log(number["floor"] + found), tf.float32), tf.shape(items))


def _logged(numbers: np.ndarray) -> np.ndarray:
    known = np.isfinite(numbers) & (numbers >= 0)
    return np.where(known, np.log1p(np.where(known, numbers, 0.0)), np.nan).astype(np.float32)
