"""What a ranker knows of a request and of a candidate, declared once for training, serving and the TensorFlow op.

A *column* is what is told: ``user.id``, ``user.<profile column>``, ``item.id``, ``item.<catalog column>``,
``item.count`` (training events), ``history.last`` (id of the newest item) and ``history.length``. A *feature* turns
columns into rows of its embedding table. The part of a name before the dot decides whose it is: ``item.`` belongs to
candidates, the rest to requests. See docs/concepts/ranking.md for the file format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Literal, Self

from genrecall.errors import ConfigError

FORMAT = 1
USER_ID, ITEM_ID, ITEM_COUNT = "user.id", "item.id", "item.count"
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


Feature = Hashed | Vocabulary | Bucketed | Crossed | Behaviour
Tabled = Hashed | Vocabulary | Bucketed | Crossed
_KINDS: Mapping[str, type[Feature]] = {
    "hashed": Hashed, "vocabulary": Vocabulary, "bucketed": Bucketed, "crossed": Crossed, "behaviour": Behaviour,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Columns and features; refuses what could not be computed.

    Attributes:
        columns: inputs.
        features: in the order in which the network reads them.
        evidence: names of the numbers that recall gives with every candidate, in their order.
        state: width of the generator's state of a request; 0: none is read.
        vectors: width of the items' vectors; 0: none are read.
    """

    columns: Sequence[Column]
    features: Sequence[Feature]
    evidence: Sequence[str] = ()
    state: int = 0
    vectors: int = 0

    def __post_init__(self) -> None:
        for name in ("columns", "features", "evidence"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        columns, features = {c.name: c for c in self.columns}, {f.name: f for f in self.features}
        wrong = [f"two columns {c.name}" for c in self.columns if columns[c.name] is not c]
        wrong += [f"two features {f.name}" for f in self.features if features[f.name] is not f]
        wrong += [f"column {c.name} of no side" for c in self.columns if c.name.partition(".")[0] not in _SIDES]
        wrong += [f"feature name {f.name!r}" for f in self.features if not f.name or "." in f.name]
        wrong += [f"{f.name}: {fault}" for f in self.features if (fault := _fault(f, columns, features))]
        if wrong:
            raise ConfigError(
                "this feature schema cannot be computed",
                seen="; ".join(wrong[:3]),
                allowed="distinct names, those of features without dots; columns of user, item or history; hashed, "
                "vocabulary and crossed features of text, bucketed ones of numbers with ascending edges, behaviours "
                "like an item feature of one column",
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

    def column(self, name: str) -> Column:
        """By name."""
        return next(c for c in self.columns if c.name == name)

    def feature(self, name: str) -> Feature:
        """By name."""
        return next(f for f in self.features if f.name == name)

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
            **{field.name: told[field.name] for field in fields(cls) if field.name not in ("columns", "features")},
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
