"""A feature schema as the plain numbers that ``SparseRank`` takes (docs/concepts/ranking.md defines the schema)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrecall.errors import ArtifactError

_KINDS = {"hashed": 0, "vocabulary": 1, "bucketed": 2, "crossed": 3}
_PROFILE, _OF_ITEM, _USER_ID, _HISTORY = range(4)
_ITEM_ID, _WORD = "item.id", (1 << 64) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What the operator is told.

    Attributes:
        names: features with a table, in order.
        behaviours: name of each behaviour feature, and the place in ``names`` of the feature that it is like.
        profile: profile columns that requests tell, in the operator's order.
        item_texts, item_numbers: columns of items, in the operator's order.
        edges: float64, of all bucketed features.
        codes, rows: int64 and int32: vocabularies, each sorted by code as an unsigned number, and their rows.
        attributes: of the operator.
    """

    names: Sequence[str]
    behaviours: Sequence[tuple[str, int]]
    profile: Sequence[str]
    item_texts: Sequence[str]
    item_numbers: Sequence[str]
    edges: np.ndarray
    codes: np.ndarray
    rows: np.ndarray
    attributes: Mapping[str, Any]


def plan_of(schema: Mapping[str, Any], vocabularies: Mapping[str, np.ndarray]) -> Plan:
    """The plan of a schema.

    Args:
        schema: as ``ranker.json`` holds it.
        vocabularies: uint64 codes by feature, in the order of rows.

    Raises:
        ArtifactError: features of a kind that this version does not know.
    """
    tabled = [feature for feature in schema["features"] if feature["kind"] != "behaviour"]
    unknown = {feature["kind"] for feature in tabled} - set(_KINDS)
    if unknown:
        raise ArtifactError(
            "the ranker has features that this version does not know",
            seen=", ".join(sorted(unknown)),
            allowed=", ".join([*_KINDS, "behaviour"]),
            fix="build the graph with the version that trained the ranker",
        )
    columns = {column["name"]: column for column in schema["columns"]}
    columns.setdefault(_ITEM_ID, {"name": _ITEM_ID, "kind": "text", "split": None})
    texts = [column for column in columns.values() if column["kind"] == "text"]
    numbers = [column for column in columns.values() if column["kind"] == "number"]
    profile = [
        column["name"] for column in columns.values()
        if column["name"].startswith("user.") and column["name"] != "user.id"
    ]  # fmt: skip
    item_texts, item_numbers = (
        [column["name"] for column in side if column["name"].startswith("item.")] for side in (texts, numbers)
    )
    places = {"text": [column["name"] for column in texts], "number": [column["name"] for column in numbers]}
    names = [feature["name"] for feature in tabled]

    def part(name: str, kind: str) -> int:
        return places[kind].index(name) if name in places[kind] else -1 - names.index(name)

    def source(column: Mapping[str, Any], of_items: Sequence[str]) -> tuple[int, int]:
        name = column["name"]
        if name in of_items:
            return _OF_ITEM, of_items.index(name)
        if name == "user.id":
            return _USER_ID, 0
        return (_HISTORY, 0) if name.startswith("history.") else (_PROFILE, profile.index(name))

    parts = [
        [part(of, "number" if feature["kind"] == "bucketed" else "text") for of in _of(feature)] for feature in tabled
    ]
    known = [np.asarray(vocabularies.get(feature["name"], []), np.uint64) for feature in tabled]
    behaviours = [feature for feature in schema["features"] if feature["kind"] == "behaviour"]
    text_from, number_from = (
        [source(c, side) for c in own] for own, side in ((texts, item_texts), (numbers, item_numbers))
    )
    return Plan(
        names=names,
        behaviours=[(feature["name"], names.index(feature["like"])) for feature in behaviours],
        profile=[name.removeprefix("user.") for name in profile],
        item_texts=item_texts,
        item_numbers=item_numbers,
        edges=np.array([edge for feature in tabled for edge in feature.get("edges", ())], np.float64),
        codes=np.concatenate([np.sort(codes) for codes in known]).view(np.int64),
        rows=np.concatenate([np.argsort(codes, kind="stable") + 1 for codes in known]).astype(np.int32),
        attributes={
            "kinds": [_KINDS[feature["kind"]] for feature in tabled],
            "salts": [_signed(code_of(feature["name"])) for feature in tabled],
            "buckets": [feature.get("buckets", 1) for feature in tabled],
            "parts": [place for own in parts for place in own],
            "part_counts": [len(own) for own in parts],
            "edge_counts": [len(feature.get("edges", ())) for feature in tabled],
            "code_counts": [len(codes) for codes in known],
            "text_sides": [side for side, _ in text_from],
            "text_places": [place for _, place in text_from],
            "text_splits": [column["split"] or "" for column in texts],
            "number_sides": [side for side, _ in number_from],
            "number_places": [place for _, place in number_from],
            "likes": [names.index(feature["like"]) for feature in behaviours],
            "lasts": [feature["last"] for feature in behaviours],
            "item_id_column": item_texts.index(_ITEM_ID),
        },
    )


def code_of(text: str) -> int:
    """FNV-1a of 64 bits through SplitMix64's finaliser: the code of a string."""
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & _WORD
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        h = ((h ^ (h >> shift)) * factor) & _WORD
    return h ^ (h >> 31)


def _of(feature: Mapping[str, Any]) -> list[str]:
    return list(feature["of"]) if feature["kind"] == "crossed" else [feature["of"]]


def _signed(code: int) -> int:
    """The same 64 bits as TensorFlow's attributes hold them."""
    return code - (1 << 64) if code >= 1 << 63 else code
