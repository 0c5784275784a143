"""How a bundle's SIDs lie: use of the codes, prefixes, and items that share a SID. For the console's SID lab.

perplexity(level) = exp(−Σ_c p_c ln p_c),    p_c the share of items with code c
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from genrecall.bundle.contents import Contents
from genrecall.bundle.export import parts_of

_GROUPS, _OWNERS, _SECOND = 1000, 4, 64
MOST_BELOW = 10_000
_QUALITY = ("collision_rate", "reconstruction_error", "neighbours", "alarms")


def summary(contents: Contents) -> dict[str, Any]:
    """Everything that the page shows; O(I) work, so it is made once a bundle."""
    sids, space = contents.table.sids, contents.table.space
    groups = [(sid, owners) for sid, owners in contents.table.items_of.items() if len(owners) > 1]
    groups.sort(key=lambda group: (-len(group[1]), group[0]))
    first, counts = np.unique(sids[:, 0], return_counts=True)
    return {
        "items": len(sids),
        "levels": [_level(sids[:, level], size, level, contents) for level, size in enumerate(space.codes)],
        "prefixes": [_prefix(sids, code, contents) for code in first[np.argsort(-counts, kind="stable")].tolist()],
        "shared_sids": len(groups),
        "largest_group": max((len(owners) for _, owners in groups), default=1),
        "groups": [
            {
                "sid": space.format(sid),
                "count": len(owners),
                "items": [_item(i, contents) for i in owners[:_OWNERS]],
            }
            for sid, owners in groups[:_GROUPS]
        ],
        "quality": _quality(contents),
    }


def below(contents: Contents, prefix: str) -> dict[str, Any] | None:
    """Items whose SIDs begin with a written prefix, at most ``MOST_BELOW``; None where that is no prefix."""
    table, codes = contents.table, []
    for level, part in enumerate(prefix.replace(">", "> ").split()):
        name, _, number = part.strip("<>").rpartition("_")
        if level >= table.space.levels or not number.isdecimal() or int(number) >= table.space.codes[level]:
            return None
        if part != table.space.token(level, int(number)) or not name:
            return None
        codes.append(int(number))
    found = np.flatnonzero((table.sids[:, : len(codes)] == np.array(codes, np.int32)).all(axis=1))
    items = [_item(i, contents) | {"sid": table.written(i)} for i in found[:MOST_BELOW].tolist()]
    return {"prefix": prefix, "count": len(found), "items": items}


def _item(item: int, contents: Contents) -> dict[str, str]:
    return {"item_id": contents.items.ids[item], "title": contents.items.titles[item]}


def _quality(contents: Contents) -> dict[str, Any]:
    """What was measured when the SIDs were built, beside the vectors that are no part of a bundle."""
    file = contents.path / parts_of(0)[0] / "quality.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {name: told[name] for name in _QUALITY if name in told}


def _level(codes: np.ndarray, size: int, level: int, contents: Contents) -> dict[str, Any]:
    counts = np.bincount(codes, minlength=size)
    share = counts[counts > 0] / max(len(codes), 1)
    return {
        "name": contents.table.space.token(level, 0).strip("<>").rpartition("_")[0],
        "counts": counts.tolist(),
        "used": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
    }


def _prefix(sids: np.ndarray, code: int, contents: Contents) -> dict[str, Any]:
    below_first = np.flatnonzero(sids[:, 0] == code)
    found = _entry((code,), below_first, contents)
    found["below"] = []
    if sids.shape[1] > 1:
        codes, counts = np.unique(sids[below_first, 1], return_counts=True)
        for second in codes[np.argsort(-counts, kind="stable")][:_SECOND].tolist():
            inside = below_first[sids[below_first, 1] == second]
            found["below"].append(_entry((code, second), inside, contents))
    return found


def _entry(prefix: tuple[int, ...], items: np.ndarray, contents: Contents) -> dict[str, Any]:
    return {"prefix": contents.table.space.format(prefix), "count": len(items), "example": _item(items[0], contents)}
