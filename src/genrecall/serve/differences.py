"""What distinguishes two bundles in service: items, SIDs, channels. For the console's page of releases.

added = B \\ A, removed = A \\ B, by item id; changed: the same item under another title, or under another SID
"""

from __future__ import annotations

from typing import Any

from genrecall.bundle.contents import Contents

_EXAMPLES = 10


def differences(before: Contents, after: Contents) -> dict[str, Any]:
    """Counts and examples, from what both have in memory; no file is read."""
    one, other = before.items, after.items
    common = [item for item in one.ids if item in other.index]
    same_space = before.table.space.codes == after.table.space.codes
    retitled = [i for i in common if one.titles[one.index[i]] != other.titles[other.index[i]]]
    moved = [
        i for i in common
        if not same_space or (before.table.sids[one.index[i]] != after.table.sids[other.index[i]]).any()
    ]  # fmt: skip
    return {
        "before": before.digest,
        "after": after.digest,
        "items": {
            "before": len(one),
            "after": len(other),
            **_listed("added", [i for i in other.ids if i not in one.index], after),
            **_listed("removed", [i for i in one.ids if i not in other.index], before),
            **_listed("changed", retitled, after),
        },
        "sids": {
            "space_before": list(before.table.space.codes),
            "space_after": list(after.table.space.codes),
            "common": len(common),
            **_listed("changed", moved, after),
        },
        "channels": {
            "added": sorted(set(after.channels) - set(before.channels)),
            "removed": sorted(set(before.channels) - set(after.channels)),
        },
        "beam": {"before": before.beam, "after": after.beam},
    }


def _listed(name: str, ids: list[str], contents: Contents) -> dict[str, Any]:
    titles, index = contents.items.titles, contents.items.index
    examples = [{"item_id": item, "title": titles[index[item]]} for item in ids[:_EXAMPLES]]
    return {f"{name}_count": len(ids), name: examples}
