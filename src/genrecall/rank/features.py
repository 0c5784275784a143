"""From columns to rows of embedding tables: one code path, offline and online.

    row = 1 + fold(salt(f); codes) mod buckets,   bag(f) = rows of all values, or [0]

Hashing trick after Weinberger et al., "Feature hashing for large scale multitask learning" (ICML 2009). Deviations: no
sign bit (rows are embeddings, not weights), and row 0 means that there is no value. What concerns items alone is
computed once, for the whole catalog.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from genrecall.catalog.histories import offsets_of
from genrecall.rank.affinity import Relation, affinity
from genrecall.rank.columns import Asked, Columns, Ragged, request_columns
from genrecall.rank.hashing import code_of, fold, mix, rows_of
from genrecall.rank.schema import ITEM_ID, Behaviour, Bucketed, Crossed, Hashed, Logged, Schema, Tabled, Vocabulary


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """What the network reads of R requests with P candidates in all.

    Attributes:
        bags: by feature: int64 rows; P lists where ``schema.of_item``, else R lists. Features of
            ``Features.item_rows`` are not among them: candidates say what their rows are.
        owner: int64 (P,) the request of each candidate.
        items: int32 (P,).
        told: float32 (P, F + N): evidence, then the schema's numbers; NaN for what is not known. Evidence alone where
            numbers are left to the device.
        state: float32 (R, E), or None.
        halves: what the requests say in the crosses that are left to the device.
        past: the newest items of the R histories, where numbers are left to the device.
    """

    bags: Mapping[str, Ragged]
    owner: np.ndarray
    items: np.ndarray
    told: np.ndarray
    state: np.ndarray | None
    halves: Mapping[str, Words] = field(default_factory=dict)
    past: Ragged | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Words:
    """uint64 (n,) words of n requests or items, and whether there is one, bool (n,)."""

    folded: np.ndarray
    there: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Half:
    """A cross as a word of the request ⊕ a word of the item: one side folds all of its parts, the other is the last.

    Attributes:
        items: words of the I items.
        parts: of the requests.
        salted: whether the requests' parts are folded; else they are one part, taken as it is.
        buckets: of the feature.
    """

    items: Words
    parts: tuple[str, ...]
    salted: bool
    buckets: int


class Features:
    """Computes rows for one catalog.

    Args:
        schema: what of.
        items: columns of the I items.
        vocabularies: uint64 codes by vocabulary feature, in the order of rows.
        relations: by name, those that the schema's affinities read.
    """

    def __init__(
        self,
        schema: Schema,
        items: Columns,
        vocabularies: Mapping[str, np.ndarray],
        relations: Mapping[str, Relation] | None = None,
    ) -> None:
        self.schema, self.items, self.relations = schema, items, relations or {}
        self._known = {name: (np.sort(codes), np.argsort(codes)) for name, codes in vocabularies.items()}
        self._edges = {f.name: np.asarray(f.edges) for f in schema.tabled if isinstance(f, Bucketed)}
        self._salts = {feature.name: code_of(feature.name) for feature in schema.features}
        alone = [feature for feature in schema.tabled if self._sides(feature) == {True}]
        self._of_items = {feature.name: self._bag(feature, items) for feature in alone}
        logged = (number for number in schema.numbers if isinstance(number, Logged))
        self.logged = {number.name: _logged(items.numbers[number.of]) for number in logged}
        crosses = ((f.name, self._half(f)) for f in schema.tabled if isinstance(f, Crossed))
        self.halves = {name: half for name, half in crosses if half is not None}
        self._longest = max((number.last for number in schema.affinities), default=0)

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.items.texts[ITEM_ID])

    @property
    def item_rows(self) -> dict[str, np.ndarray]:
        """int64 (I,) by feature that concerns items alone and has one row of each."""
        bags = self._of_items.items()
        return {name: bag.values.astype(np.int64, copy=False) for name, bag in bags if _is_single(bag)}

    def of(self, asked: Asked, *, counted: bool = True, whole: bool = True) -> Rows:
        """Rows of all features, and numbers; these are not known where ``counted`` is False.

        Where ``whole`` is False, what ``pairs`` computes on a device is left to it.
        """
        requests = request_columns(asked, self.schema, self.items.texts[ITEM_ID])
        candidates, owner = asked.candidates.values, asked.candidates.owner
        bags: dict[str, Ragged] = {}
        halves: dict[str, Words] = {}
        joined: Columns | None = None
        for feature in self.schema.features:
            if isinstance(feature, Behaviour):
                bags[feature.name] = self._behaviour(feature, asked.histories)
            elif feature.name in self._of_items:
                if not _is_single(self._of_items[feature.name]):
                    bags[feature.name] = self._of_items[feature.name].take(candidates)
            elif not whole and feature.name in self.halves:
                halves[feature.name] = self._words(feature.name, requests)
            elif not self.schema.of_item(feature):
                bags[feature.name] = self._bag(feature, requests)
            else:
                joined = joined or _joined(requests, owner, self.items, candidates, self.schema)
                bags[feature.name] = self._bag(feature, joined)
        left = counted and not whole
        told = asked.evidence if left else self.told(asked) if counted else self._untold(asked)
        past = asked.histories.newest(self._longest) if left else None
        return Rows(
            bags=bags, owner=owner, items=candidates, told=told, state=asked.state, halves=halves, past=past
        )  # fmt: skip

    def told(self, asked: Asked) -> np.ndarray:
        """float32 (P, F + N): see ``Rows``."""
        columns = [
            self.logged[number.name][asked.candidates.values]
            if isinstance(number, Logged)
            else affinity(number, self.relations[number.of], asked.histories, asked.candidates)
            for number in self.schema.numbers
        ]
        return np.column_stack([asked.evidence, *columns]) if columns else asked.evidence

    def _sides(self, feature: Tabled) -> set[bool]:
        """Whether items (True) or requests (False) or both have a say in a feature."""
        return {self._sides_of(part) for part in (feature.of if isinstance(feature, Crossed) else (feature.of,))}

    def _sides_of(self, part: str) -> bool:
        bucketed = {f.name: f.of for f in self.schema.features if isinstance(f, Bucketed)}
        return bucketed.get(part, part).startswith("item.")

    def _behaviour(self, feature: Behaviour, histories: Ragged) -> Ragged:
        newest = histories.newest(feature.last)
        rows = self._of_items[feature.like].take(newest.values)
        return Ragged(offsets=rows.offsets[newest.offsets], values=rows.values)

    def _bag(self, feature: Tabled, columns: Columns) -> Ragged:
        if isinstance(feature, Bucketed):
            return Ragged.single(self._bucket(feature.name, columns.numbers[feature.of]))
        if isinstance(feature, Vocabulary):
            told = columns.texts[feature.of]
            return _filled(Ragged(offsets=told.offsets, values=self._place(feature.name, told.values)))
        parts = [feature.of] if isinstance(feature, Hashed) else feature.of
        folded = _folded(self._salts[feature.name], [self._part(part, columns) for part in parts])
        return _filled(Ragged(offsets=folded.offsets, values=rows_of(folded.values, feature.buckets)))

    def _part(self, name: str, columns: Columns) -> Ragged:
        if name not in self._edges:
            return columns.texts[name]
        bucketed = self.schema.feature(name)
        assert isinstance(bucketed, Bucketed)
        return Ragged.single(mix(self._bucket(name, columns.numbers[bucketed.of]).astype(np.uint64)))

    def _half(self, feature: Crossed) -> Half | None:
        """None where a part may have several values, or the sides stand in another order."""
        of_item = [self._sides_of(part) for part in feature.of]
        at_most_one = all(
            part in self._edges or (self._few(part) if own else self.schema.column(part).split is None)
            for part, own in zip(feature.of, of_item, strict=True)
        )
        if not at_most_one or of_item[-1] in of_item[:-1]:
            return None
        mine = tuple(part for part, own in zip(feature.of, of_item, strict=True) if own)
        others = tuple(part for part, own in zip(feature.of, of_item, strict=True) if not own)
        words = self._folded_words(feature.name, mine, self.items, salted=not of_item[-1])
        return Half(items=words, parts=others, salted=of_item[-1], buckets=feature.buckets)

    def _few(self, column: str) -> bool:
        return bool(self.items.texts[column].lengths.max(initial=0) <= 1)

    def _words(self, name: str, requests: Columns) -> Words:
        half = self.halves[name]
        return self._folded_words(name, half.parts, requests, salted=half.salted)

    def _folded_words(self, name: str, parts: Sequence[str], columns: Columns, *, salted: bool) -> Words:
        """Of parts that have one value or none."""
        told = [self._part(part, columns) for part in parts]
        there = np.logical_and.reduce([part.lengths > 0 for part in told])
        values = [_first(part) for part in told]
        return Words(folded=fold(self._salts[name], values) if salted else values[0], there=there)

    def _bucket(self, name: str, numbers: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(numbers), 1 + np.searchsorted(self._edges[name], numbers, side="right"), 0)

    def _place(self, name: str, codes: np.ndarray) -> np.ndarray:
        known, rows = self._known[name]
        at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        return np.where(known[at] == codes, rows[at] + 1, 0)

    def _untold(self, asked: Asked) -> np.ndarray:
        return np.pad(asked.evidence, ((0, 0), (0, len(self.schema.numbers))), constant_values=np.nan)


def _logged(numbers: np.ndarray) -> np.ndarray:
    """float32 (I,) ln(1 + number), NaN for what is below 0 or no finite number."""
    known = np.isfinite(numbers) & (numbers >= 0)
    return np.where(known, np.log1p(np.where(known, numbers, 0.0)), np.nan).astype(np.float32)


def _joined(requests: Columns, owner: np.ndarray, items: Columns, candidates: np.ndarray, schema: Schema) -> Columns:
    """Columns of P candidates and of their requests, for the features that cross them."""
    crossed = {part for feature in schema.features if isinstance(feature, Crossed) for part in feature.of}
    crossed |= {feature.of for feature in schema.features if isinstance(feature, Bucketed)}
    sides = ((requests, owner), (items, candidates))
    return Columns(
        texts={n: ragged.take(at) for side, at in sides for n, ragged in side.texts.items() if n in crossed},
        numbers={n: array[at] for side, at in sides for n, array in side.numbers.items() if n in crossed},
    )


def _folded(salt: np.uint64, parts: Sequence[Ragged]) -> Ragged:
    """uint64 codes of every combination, the first part outermost; none where a part has none."""
    found, owner = fold(salt, [parts[0].values]), parts[0].owner
    for part in parts[1:]:
        many = part.lengths[owner]
        ends = np.cumsum(many)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - many, many)
        owner, found = np.repeat(owner, many), np.repeat(found, many)
        found = mix(found ^ part.values[part.offsets[owner] + within])
    return Ragged(offsets=offsets_of(np.bincount(owner, minlength=len(parts[0]))), values=found)


def _first(lists: Ragged) -> np.ndarray:
    """uint64 (n,): the one value of each list, 0 where there is none."""
    if _is_single(lists):
        return lists.values
    found = np.zeros(len(lists), np.uint64)
    there = lists.lengths > 0
    found[there] = lists.values[lists.offsets[:-1][there]]
    return found


def _is_single(bags: Ragged) -> bool:
    """Of bags of which none is empty."""
    return len(bags.values) == len(bags)


def _filled(bags: Ragged) -> Ragged:
    """Row 0 where a bag is empty."""
    empty = np.flatnonzero(bags.lengths == 0)
    if len(empty) == 0:
        return bags
    values = np.insert(bags.values, bags.offsets[empty], 0)
    return Ragged(offsets=offsets_of(np.maximum(bags.lengths, 1)), values=values)
