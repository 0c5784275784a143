"""``row = 1 + mix(u ⊕ v) mod buckets``, unsigned, of a request's word u and an item's word v.

``mix`` is the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), see ``rank.hashing``. Deviation: torch has no
unsigned arithmetic, so that shifts are masked and u mod m is ((u >> 1) mod m · 2 + (u & 1)) mod m.
"""

from __future__ import annotations

import torch

from genrecall.kernels.crossed_rows import Codes

_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def crossed_rows(
    requests: Codes, items: Codes, buckets: torch.Tensor, owner: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    item = candidates.long()
    word = requests.folded[:, owner] ^ items.folded[:, item]
    word = (word ^ _shifted(word, 30)) * _FIRST
    word = (word ^ _shifted(word, 27)) * _SECOND
    word = word ^ _shifted(word, 31)
    many = buckets[:, None]
    row = (_shifted(word, 1) % many * 2 + (word & 1)) % many
    return torch.where(requests.there[:, owner] & items.there[:, item], row + 1, 0)


def _shifted(word: torch.Tensor, by: int) -> torch.Tensor:
    return (word >> by) & ((1 << (64 - by)) - 1)
