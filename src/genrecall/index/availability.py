"""Which items a request may return: stock, exclusion lists and other filters as one mask.

Filters mask items inside the search and never change a score: the normaliser stays the whole catalog's trie.
"""

from __future__ import annotations

import numpy as np


def allowed_items(
    num_items: int, exclude: np.ndarray | None = None, *, available: np.ndarray | None = None
) -> np.ndarray | None:
    """Join what is available with what must not come back.

    Args:
        num_items: I.
        exclude: integer item indices that must not be returned (seen, blocked), in any order, repeats allowed.
        available: bool (I,), False where an item is out of stock, of another region, and so on; None: everything is.

    Returns:
        bool (I,), or None where nothing is filtered. Without ``exclude`` the mask given is returned itself, so that
        requests that share it also share its node mask.
    """
    if available is not None:
        assert available.shape == (num_items,), "one flag per item"
        assert available.dtype == np.bool_, "flags are booleans"
    if exclude is None or len(exclude) == 0:
        return available
    mask = np.ones(num_items, dtype=bool) if available is None else available.copy()
    assert np.min(exclude) >= 0, "exclusions are item indices"
    assert np.max(exclude) < num_items, "exclusions are item indices"
    mask[exclude] = False
    return mask
