"""What a ranker knows of a request and of a candidate, declared once for training, serving and the TensorFlow op.

A *column* is what is told: ``user.id``, ``user.<profile column>``, ``item.id``, ``item.<catalog column>``,
``item.count`` and ``item.recent`` (training events of all times, and of the last), ``history.last`` (id of the newest
item) and ``history.length``. A *feature* turns columns into rows of its embedding table, a *number* goes into the
network as it is. The part of a name before the dot decides whose it is: ``item.`` belongs to
candidates, the rest to requests. See docs/concepts/ranking.md for the file format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, Self

from genrecall.errors import ConfigError

FORMAT = 2
USER_ID, ITEM_ID, ITEM_COUNT, ITEM_RECENT = "user.id", "item.id", "item.count", "item.recent"
HISTORY_LAST, HISTORY_LENGTH = "history.last", "history.length"
_SIDES = ("user", "item", "history")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One input.

    Attributes:
        name: ``<side>.<name>``.
        kind: ``text`` (any number of values) or ``number`` (one, or none).
        split: text is cut at this string into several values; None: one value.
    """

    name: str
    kind: Literal["text", "number"] = "text"
    split: str | None = None

    @property
    def of_item(self) -> bool:
        """Whether it belongs to candidates."""
        return self.name.startswith("item.")


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """Values of a text column, hashed into ``buckets`` rows."""

    name: str
    of: str
    buckets: int
    width: int = 16
    kind: Literal["hashed"] = "hashed"

    @property
    def size(self) -> int:
        """Rows after row 0."""
        return self.buckets


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Values of a text column that training has seen, a row each; ``size`` of them. Others have row 0."""

    name: str
    of: str
    size: int
    width: int = 16
    kind: Literal["vocabulary"] = "vocabulary"


@dataclass(frozen=True, kw_only=True)
class Bucketed:
    """A number column: row 1 + (edges that are not above the number); none, or not a number: row 0."""

    name: str
    of: str
    edges: Sequence[float]
    width: int = 8
    kind: Literal["bucketed"] = "bucketed"

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(float(edge) for edge in self.edges))

    @property
    def size(self) -> int:
        """Rows after row 0."""
        return len(self.edges) + 1


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """Every combination of values of text columns or bucketed features, hashed together."""

    name: str
    of: Sequence[str]
    buckets: int
    width: int = 8
    kind: Literal["crossed"] = "crossed"

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", tuple(self.of))

    @property
    def size(self) -> int:
        """Rows after row 0."""
        return self.buckets


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """The newest ``last`` items of the history, each through the item feature ``like``, whose table it shares."""

    name: str
    like: str
    last: int = 50
    kind: Literal["behaviour"] = "behaviour"


@dataclass(frozen=True, kw_only=True)
class Logged:
    """ln(1 + a number column of items); a negative number or none is not known."""

    name: str
    of: str
    kind: Literal["logged"] = "logged"


@dataclass(frozen=True, kw_only=True)
class Affinity:
    """How a candidate goes with the newest ``last`` items of the history: see ``rank.affinity``.

    Attributes:
        name: of the number.
        of: name of the item-to-item relation.
        last, decay: newest items that are read, and the weight of one that is a step older.
        floor: what is added before the logarithm is taken.
    """

    name: str
    of: str
    last: int
    decay: float
    floor: float
    kind: Literal["affinity"] = "affinity"


Number = Logged | Affinity
Feature = Hashed | Vocabulary | Bucketed | Crossed | Behaviour
Tabled = Hashed | Vocabulary | Bucketed | Crossed
_KINDS: Mapping[str, type[Feature]] = {
    "hashed": Hashed, "vocabulary": Vocabulary, "bucketed": Bucketed, "crossed": Crossed, "behaviour": Behaviour,
}  # fmt: skip
_NUMBERS: Mapping[str, type[Number]] = {"logged": Logged, "affinity": Affinity}


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Columns and features; refuses what could not be computed.

    Attributes:
        columns: inputs.
        features: in the order in which the network reads them.
        numbers: of every candidate, computed here, in their order.
        evidence: names of the numbers that recall gives with every candidate, in their order.
        state: width of the generator's state of a request; 0: none is read.
        vectors: width of the items' vectors; 0: none are read.
    """

    columns: Sequence[Column]
    features: Sequence[Feature]
    numbers: Sequence[Number] = ()
    evidence: Sequence[str] = ()
    state: int = 0
    vectors: int = 0

    def __post_init__(self) -> None:
        for name in ("columns", "features", "numbers", "evidence"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        columns, features = {c.name: c for c in self.columns}, {f.name: f for f in self.features}
        wrong = [f"two columns {c.name}" for c in self.columns if columns[c.name] is not c]
        wrong += [f"two features {f.name}" for f in self.features if features[f.name] is not f]
        wrong += [f"column {c.name} of no side" for c in self.columns if c.name.partition(".")[0] not in _SIDES]
        wrong += [f"feature name {f.name!r}" for f in self.features if not f.name or "." in f.name]
        wrong += [f"{f.name}: {fault}" for f in self.features if (fault := _fault(f, columns, features))]
        wrong += [f"{n.name}: {fault}" for n in self.numbers if (fault := _misread(n, columns))]
        if wrong:
            raise ConfigError(
                "this feature schema cannot be computed",
                seen="; ".join(wrong[:3]),
                allowed="distinct names, those of features without dots; columns of user, item or history; hashed, "
                "vocabulary and crossed features of text, bucketed ones of numbers with ascending edges, behaviours "
                "like an item feature of one column; logged numbers of items, affinities with last >= 1, a decay of "
                "more than 0 and at most 1, and a floor of more than 0",
                fix="correct the schema",
            )

    @property
    def tabled(self) -> list[Tabled]:
        """Features with a table of their own, in order."""
        return [f for f in self.features if not isinstance(f, Behaviour)]

    @property
    def behaviours(self) -> list[Behaviour]:
        """Features of the history, in order."""
        return [f for f in self.features if isinstance(f, Behaviour)]

    @property
    def told(self) -> int:
        """Width of what the network reads of a candidate as it is: evidence, then numbers."""
        return len(self.evidence) + len(self.numbers)

    @property
    def affinities(self) -> list[Affinity]:
        """Numbers that read a relation, in order."""
        return [n for n in self.numbers if isinstance(n, Affinity)]

    def column(self, name: str) -> Column:
        """By name."""
        return next(c for c in self.columns if c.name == name)

    def feature(self, name: str) -> Feature:
        """By name."""
        return next(f for f in self.features if f.name == name)

    def width_of(self, name: str) -> int:
        """Of the rows of a feature with a table."""
        return next(f.width for f in self.tabled if f.name == name)

    def of_item(self, feature: Feature) -> bool:
        """Whether it differs between the candidates of a request."""
        if isinstance(feature, Behaviour):
            return False
        parts = feature.of if isinstance(feature, Crossed) else (feature.of,)
        named = {f.name: f.of for f in self.features if isinstance(f, Bucketed)}
        return any(named.get(part, part).startswith("item.") for part in parts)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Inverse of ``to_json``."""
        return cls(
            columns=[Column(**column) for column in told["columns"]],
            features=[_KINDS[feature["kind"]](**feature) for feature in told["features"]],
            numbers=[_NUMBERS[number["kind"]](**number) for number in told["numbers"]],
            **{name: told[name] for name in ("evidence", "state", "vectors")},
        )


def _fault(feature: Feature, columns: Mapping[str, Column], features: Mapping[str, Feature]) -> str | None:
    if isinstance(feature, Behaviour):
        like = features.get(feature.like)
        fits = isinstance(like, Hashed | Vocabulary) and like.of.startswith("item.") and feature.last >= 1
        return None if fits else f"no item feature {feature.like} of one text column"
    if feature.size < 1 or feature.width < 1:
        return f"{feature.size} rows of width {feature.width}"
    if isinstance(feature, Bucketed):
        ascending = all(a < b for a, b in pairwise(feature.edges))
        return None if ascending and _is(columns, feature.of, "number") else f"edges of number {feature.of}"
    parts = feature.of if isinstance(feature, Crossed) else (feature.of,)
    crossed = isinstance(feature, Crossed)
    for part in parts:
        bucketed = crossed and isinstance(features.get(part), Bucketed)
        if not bucketed and not _is(columns, part, "text"):
            return f"no text column {part}"
    return "nothing to cross" if crossed and len(parts) < 2 else None


def _is(columns: Mapping[str, Column], name: str, kind: str) -> bool:
    return name in columns and columns[name].kind == kind


def _misread(number: Number, columns: Mapping[str, Column]) -> str | None:
    if isinstance(number, Logged):
        fits = number.of.startswith("item.") and _is(columns, number.of, "number")
        return None if fits else f"no number column {number.of} of items"
    fits = number.last >= 1 and 0 < number.decay <= 1 and number.floor > 0
    return None if fits else f"last={number.last}, decay={number.decay}, floor={number.floor}"
