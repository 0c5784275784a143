"""Sampling SIDs without replacement inside the search: the beams are a sample instead of the best.

    G_c = −log( e^{−u} − e^{−Z} + e^{−(φ_c + g_c)} ),   Z = max_c (φ_c + g_c),   keep the W largest G

Stochastic beam search (Kool et al. 2019, arXiv 1903.06059): with u the perturbed score of the parent this draws W SIDs
without replacement, each in proportion to its probability. We deviate: g_c is a hash of the request's seed and the
child's node, so that a sample does not depend on what else is in the batch; requests without a seed rank by φ as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from genrecall.engine.device.batch import request_of
from genrecall.engine.device.diversity import within_caps
from genrecall.kernels.trie_select import Beams, Children, NodeFilter, Selection

_NONE = float("-inf")
_CODES = 2**31


@dataclass(frozen=True, kw_only=True, eq=False)
class Caps:
    """At most so many beams under one first code.

    Attributes:
        first_code: int32 (M,), of each beam.
        most: int32 (R,).
        node_filter: what may not be chosen anyway, or None.
    """

    first_code: torch.Tensor
    most: torch.Tensor
    node_filter: NodeFilter | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """Ranking keys in place of logits, for one level.

    Attributes:
        logits: float32 (M, C), the keys of valid children.
        beams: with scores that make ``trie_select`` rank by them as they are.
        log_prob: float32 (M, C), of the codes after each beam.
    """

    logits: torch.Tensor
    beams: Beams
    log_prob: torch.Tensor

    def score_of(self, best: Selection, before: torch.Tensor) -> torch.Tensor:
        """True scores φ of what was selected, float32 (M',); -inf in padding."""
        score = before[best.parent] + self.log_prob[best.parent, best.code]
        return torch.where(best.score == _NONE, _NONE, score)


def draw(
    logits: torch.Tensor,
    beams: Beams,
    children: Children,
    key: torch.Tensor,
    seeds: torch.Tensor,
    *,
    over_children: bool = True,
    caps: Caps | None = None,
) -> Draw:
    """Rank what follows M beams by something else than their scores.

    Args:
        logits: float32 (B, C).
        beams: M, with true scores φ.
        children: the trie.
        key: float32 (M,), u of each beam; φ where its request has no seed.
        seeds: int32 (R,); -1 for none.
        over_children: whether probabilities sum to 1 over a beam's children or over all codes.
        caps: how many beams one first code may have; None: any number.
    """
    rows, codes = len(key), logits.shape[1]
    row = torch.arange(rows, dtype=torch.int32, device=key.device)
    ranges, request = beams.ranges, request_of(beams.ranges.begin, rows)
    live = row - ranges.begin[request] < ranges.count[request]
    seed = seeds[request].long()[:, None]
    # The children of every beam side by side; those of padding are none.
    node = torch.where(live, beams.node, 0)
    begin = children.begin[node].long()[:, None]
    place = torch.arange(children.most, device=key.device)
    valid = live[:, None] & (begin + place < children.begin[node + 1].long()[:, None])
    edge = torch.where(valid, begin + place, 0)
    code = torch.where(valid, children.code[edge].long(), codes)

    forced = beams.logits_row < 0
    dense = logits[beams.logits_row.clamp(min=0)] if len(logits) else logits.new_zeros(rows, codes)
    z = torch.where(valid, F.pad(dense, (0, 1)).gather(1, code), _NONE)
    normaliser = torch.logsumexp(z if over_children else dense, 1, keepdim=True)
    log_prob = torch.where(forced[:, None], 0.0, dense - normaliser)
    own = torch.where(valid, beams.score[:, None] + F.pad(log_prob, (0, 1)).gather(1, code), _NONE)

    noisy = own + _gumbel(seed, edge)
    peak = noisy.amax(1, keepdim=True)
    # u − relu(v) − log1p(e^{−|v|}) with v = u − G̃ + log1p(−e^{G̃ − Z}), the stable form of the paper's appendix.
    v = key[:, None] - noisy + torch.log1p(-torch.exp(noisy - peak))
    drawn = key[:, None] - v.clamp(min=0) - torch.log1p(torch.exp(-v.abs()))
    ranked = torch.where(valid, torch.where(seed >= 0, drawn, own), _NONE)
    if caps is not None:
        eligible = valid
        if caps.node_filter is not None:
            mask = caps.node_filter.row[request].long()[:, None]
            eligible = valid & ((mask < 0) | caps.node_filter.allowed[mask.clamp(min=0), edge + 1])
        group = request * _CODES + caps.first_code
        ranked = within_caps(ranked, eligible, group, caps.most[request].long())
    keys = dense.new_zeros(rows, codes + 1).scatter_(1, code, ranked)[:, :codes].contiguous()
    # What the selection subtracts is given to it beforehand.
    undone = torch.logsumexp(ranked, 1)
    return Draw(
        logits=keys,
        beams=Beams(node=beams.node, score=undone, logits_row=row, ranges=ranges),
        log_prob=log_prob,
    )


def _gumbel(seed: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise float32 from 24 bits of a hash (splitmix64's finaliser, Steele et al. 2014)."""
    x = (seed + 1) * -7046029254386353131 + edge * -4658895280553007687
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    uniform = (((x >> 40) & 0xFFFFFF).double() + 0.5) / 2**24
    return (-torch.log(-torch.log(uniform))).float()
