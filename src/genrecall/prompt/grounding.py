"""What a backbone can already say about each code: the words of the titles of the items that carry it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrecall.prompt.vocabulary import Vocabulary


def title_tokens(
    vocabulary: Vocabulary, sids: np.ndarray, titles: Sequence[str], *, most_titles: int = 256
) -> list[np.ndarray]:
    """For each SID token in flat order, the tokens whose mean embedding its row may start from.

    Args:
        vocabulary: a backbone's, with SID tokens.
        sids: int (I, L).
        titles: I titles.
        most_titles: of the items that carry a code, the first so many are read.

    Returns:
        int64 arrays; empty for a code that no item carries.
    """
    words = [np.asarray(vocabulary.encode(title), dtype=np.int64) for title in titles]
    # A title that spells a SID must not ground a token in itself.
    words = [tokens[tokens < min(vocabulary.first_sid_token, vocabulary.separator)] for tokens in words]
    nothing = np.zeros(0, dtype=np.int64)
    grounded = []
    for level, size in enumerate(vocabulary.space.codes):
        order = np.argsort(sids[:, level], kind="stable")
        borders = np.searchsorted(sids[order, level], np.arange(size + 1))
        for code in range(size):
            items = order[borders[code] : borders[code + 1]][:most_titles]
            grounded.append(np.concatenate([nothing, *(words[item] for item in items)]))
    return grounded
