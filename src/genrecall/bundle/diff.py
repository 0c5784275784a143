"""What changed between two bundles: parts, settings, items, SIDs. No model is read; see ``overlap`` for their answers.

part digest = SHA-256 of its files' names and checksums,    items: added = B \\ A, removed = A \\ B, by item id
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from genrecall.artifacts import Artifact, Manifest, open_artifact
from genrecall.bundle.export import KIND, parts_of
from genrecall.bundle.overlap import Overlap
from genrecall.catalog.items import Items
from genrecall.sid.space import SidSpace
from genrecall.sid.table import FILE, SidTable

EXAMPLES = 10
# Of a generator's folders; the first pattern that fits names the part.
_SID = (("SID table", "table.parquet"), ("quantiser and its normaliser", "quantizer.safetensors"))
_MODEL = (
    ("weights", "*.safetensors"),
    ("tokenizer", "tokenizer*"),
    ("tokenizer", "vocabulary.json"),
    ("prompt", "*prompt.json"),
    ("model configuration", "*config.json"),
    ("model configuration", "trunk.json"),
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some files of a bundle under one digest; digests are None where a side has no such files.

    Attributes:
        name: ``weights``, ``tokenizer``, ``channel item_cf``, …; of a second generator ``weights-1``.
        before, after: digests.
        bytes_before, bytes_after: sizes.
    """

    name: str
    before: str | None
    after: str | None
    bytes_before: int
    bytes_after: int

    @property
    def same(self) -> bool:
        """Whether both sides hold the same bytes."""
        return self.before == self.after


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value of the configuration that differs; None where a side does not have it."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class ItemChanges:
    """Item ids by what became of them, in the order of their bundle."""

    before: int
    after: int
    added: Sequence[str]
    removed: Sequence[str]
    changed: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SidChanges:
    """SIDs of the items that both have.

    Attributes:
        common: how many items both have.
        changed: ids whose SID differs; all of them where the spaces do.
        shared_with_added: items of A whose SID an added item has, too.
    """

    space_before: Sequence[int]
    space_after: Sequence[int]
    common: int
    changed: Sequence[str]
    shared_with_added: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Bundle A (before) against bundle B (after).

    Attributes:
        before, after: digests of the bundles.
        parts: all of them, those that are the same, too.
        settings: those that differ.
        items, sids: what became of them (SIDs of the first generator).
        training: facts of each side's models.
        overlaps: of the answers, by channel; empty where nobody was asked for.
    """

    before: str
    after: str
    parts: Sequence[Part]
    settings: Sequence[Setting]
    items: ItemChanges
    sids: SidChanges
    training: tuple[Any, Any]
    overlaps: Mapping[str, Overlap]

    @property
    def same(self) -> bool:
        """Whether both are one bundle."""
        return self.before == self.after

    def to_dict(self, examples: int | None = None) -> dict[str, Any]:
        """JSON-able; lists of ids are cut to ``examples`` beside their counts."""
        found = asdict(self)
        found["parts"] = [{**asdict(part), "same": part.same} for part in self.parts]
        for group, names in (("items", ("added", "removed", "changed")), ("sids", ("changed",))):
            for name in names:
                ids = list(found[group][name])
                found[group] |= {f"{name}_count": len(ids), name: ids[:examples]}
        return {"same": self.same, **found}


def compare(before: Path | str, after: Path | str, overlaps: Mapping[str, Overlap] | None = None) -> Difference:
    """Open two bundles, verify every checksum, and tell what differs.

    Args:
        before, after: directories.
        overlaps: of their answers, where somebody was asked for.

    Raises:
        ArtifactError: one of them is no bundle, or damaged.
    """
    one, other = open_artifact(before, kind=KIND), open_artifact(after, kind=KIND)
    return Difference(
        before=one.digest,
        after=other.digest,
        parts=_parts(one.manifest, other.manifest),
        settings=_settings(one.manifest.config, other.manifest.config),
        items=_items(_catalog(one), _catalog(other)),
        sids=_sids(_table(one), _table(other)),
        training=(one.manifest.facts.get("training"), other.manifest.facts.get("training")),
        overlaps=overlaps or {},
    )


def part_of(file: str) -> str:
    """The name of the part that a bundle's file belongs to."""
    folder, _, rest = file.partition("/")
    if folder == "items.parquet":
        return "items"
    if folder == "channels":
        return f"channel {rest.removesuffix('.safetensors')}" if rest.endswith(".safetensors") else "channel settings"
    kind, _, number = folder.partition("-")
    for name, pattern in {"sid": _SID, "model": _MODEL}.get(kind, ()):
        if fnmatch.fnmatchcase(rest, pattern):
            return f"{name}-{number}" if number else name
    return file


def _parts(before: Manifest, after: Manifest) -> list[Part]:
    sides = [_grouped(manifest) for manifest in (before, after)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    return [
        Part(
            name=name,
            before=_digest(sides[0].get(name)),
            after=_digest(sides[1].get(name)),
            bytes_before=_bytes(sides[0].get(name)),
            bytes_after=_bytes(sides[1].get(name)),
        )
        for name in names
    ]


def _grouped(manifest: Manifest) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for file, entry in manifest.files.items():
        found.setdefault(part_of(file), {})[file] = entry
    return found


def _digest(files: Mapping[str, Any] | None) -> str | None:
    if files is None:
        return None
    lines = "".join(f"{name} {entry['sha256']}\n" for name, entry in sorted(files.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def _bytes(files: Mapping[str, Any] | None) -> int:
    return sum(entry["bytes"] for entry in (files or {}).values())


def _settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Setting]:
    flat = [_flat(side) for side in (before, after)]
    names = dict.fromkeys([*flat[0], *flat[1]])
    pairs = ((name, flat[0].get(name), flat[1].get(name)) for name in names)
    return [Setting(name=name, before=one, after=other) for name, one, other in pairs if one != other]


def _flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            found |= _flat(inner, f"{above}{name}.")
        else:
            found[above + name] = inner
    return found


def _items(before: Items, after: Items) -> ItemChanges:
    columns = [name for name in before.table.column_names if name in after.table.column_names]
    rows = [side.table.select(columns).to_pylist() for side in (before, after)]
    return ItemChanges(
        before=len(before),
        after=len(after),
        added=[item for item in after.ids if item not in before.index],
        removed=[item for item in before.ids if item not in after.index],
        changed=[
            item for place, item in enumerate(before.ids)
            if item in after.index and rows[0][place] != rows[1][after.index[item]]
        ],
    )  # fmt: skip


def _sids(before: SidTable, after: SidTable) -> SidChanges:
    one, other = (dict(zip(t.item_ids, map(tuple, t.sids.tolist()), strict=True)) for t in (before, after))
    common, moved = [item for item in before.item_ids if item in other], before.space.codes != after.space.codes
    added = {other[item] for item in after.item_ids if item not in one}
    return SidChanges(
        space_before=before.space.codes,
        space_after=after.space.codes,
        common=len(common),
        changed=[item for item in common if moved or one[item] != other[item]],
        shared_with_added=sum(one[item] in added for item in common),
    )


def _catalog(bundle: Artifact) -> Items:
    return Items(table=pq.read_table(bundle.file("items.parquet")))


def _table(bundle: Artifact) -> SidTable:
    folder = parts_of(0)[0]
    space = SidSpace(tuple(bundle.manifest.config["spaces"][0]))
    return SidTable.read(bundle.file(f"{folder}/{FILE}"), space, bundle.manifest.parents[folder])
