"""How a bundle's SIDs lie: use of the codes, prefixes, and items that share a SID. For the console's SID lab.

perplexity(level) = exp(−Σ_c p_c ln p_c),    p_c the share of items with code c
"""

from __future__ import annotations

from typing import Any

import numpy as np

from genrecall.bundle.contents import Contents

_EXAMPLES, _GROUPS, _SECOND = 12, 20, 64


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
            {"sid": space.format(sid), "count": len(owners), "titles": [contents.items.titles[i] for i in owners[:4]]}
            for sid, owners in groups[:_GROUPS]
        ],
    }


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
    below = np.flatnonzero(sids[:, 0] == code)
    found = _entry((code,), below, contents)
    found["below"] = []
    if sids.shape[1] > 1:
        codes, counts = np.unique(sids[below, 1], return_counts=True)
        for second in codes[np.argsort(-counts, kind="stable")][:_SECOND].tolist():
            found["below"].append(_entry((code, second), below[sids[below, 1] == second], contents))
    return found


def _entry(prefix: tuple[int, ...], items: np.ndarray, contents: Contents) -> dict[str, Any]:
    ids, titles = contents.items.ids, contents.items.titles
    return {
        "prefix": contents.table.space.format(prefix),
        "count": len(items),
        "examples": [{"item_id": ids[i], "title": titles[i]} for i in items[:_EXAMPLES].tolist()],
    }
