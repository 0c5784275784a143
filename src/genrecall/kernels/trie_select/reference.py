"""``top-W over { s_m + z_mc − log Σ_{c' ∈ valid(m)} exp z_mc' : c ∈ valid(m) }``: plain torch over CSR children.

The constraint follows STATIC (Su et al. 2026, arXiv 2602.22647): mask first, select afterwards. We deviate: only
existing children are enumerated instead of all C codes, and ties are resolved by SID. This reads counts on the host and
sorts all candidates; it is the definition, and what a CPU runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from genrecall.kernels.rows.reference import live_rows, owner

if TYPE_CHECKING:
    from genrecall.kernels.trie_select import Beams, Children, NodeFilter

_NONE = float("-inf")


def trie_select(
    logits: torch.Tensor,
    beams: Beams,
    children: Children,
    width: torch.Tensor,
    begin: torch.Tensor,
    rows: int,
    most_beams: int,
    over_children: bool,
    node_filter: NodeFilter | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``. Returns parent, code, node, score, count, broken."""
    device = logits.device
    requests = len(width)
    live = live_rows(beams.ranges.begin, beams.ranges.count, len(beams.node)).nonzero()[:, 0]
    request = owner(beams.ranges.begin, len(beams.node))[live]
    node, source = beams.node[live], beams.logits_row[live]
    base = beams.score[live] - log_normaliser(logits, source, node, children, over_children)

    row, edge = _children(node, children.begin)
    code = children.code[edge].long()
    total = base[row] + _logit(logits, source[row], code)
    broken = torch.zeros(requests, dtype=torch.int32, device=device)
    broken[request[~torch.isfinite(base)]] = 1
    broken[request[row[~torch.isfinite(total)]]] = 1
    allowed = torch.ones_like(total, dtype=torch.bool)
    if node_filter is not None:
        mask = node_filter.row[request[row]].long()
        allowed = (mask < 0) | node_filter.allowed[mask.clamp(min=0), edge + 1]

    # Best first within a request; a stable sort leaves ties in SID order.
    owners = request[row]
    order = torch.sort(torch.where(allowed, total, _NONE), descending=True, stable=True).indices
    order = order[allowed[order]]
    order = order[torch.sort(owners[order], stable=True).indices]
    found = torch.bincount(owners[order], minlength=requests)
    rank = torch.arange(len(order), device=device) - (torch.cumsum(found, 0) - found)[owners[order]]
    chosen = torch.sort(order[rank < width[owners[order]]]).values  # SID order again
    count = torch.bincount(owners[chosen], minlength=requests)
    slot = torch.arange(len(chosen), device=device) - (torch.cumsum(count, 0) - count)[owners[chosen]]
    place = begin[owners[chosen]] + slot

    def put(values: torch.Tensor, padding: float, dtype: torch.dtype) -> torch.Tensor:
        out = torch.full((rows,), padding, dtype=dtype, device=device)
        out[place] = values.to(dtype)
        return out

    return (
        put(live[row[chosen]], 0, torch.int32),
        put(code[chosen], 0, torch.int32),
        put(edge[chosen] + 1, 0, torch.int32),
        put(total[chosen], _NONE, torch.float32),
        count.int(),
        broken,
    )


def log_normaliser(
    logits: torch.Tensor, logits_row: torch.Tensor, node: torch.Tensor, children: Children, over_children: bool
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    scored = logits_row >= 0
    out = torch.zeros(len(node), dtype=torch.float32, device=logits.device)
    if not over_children:
        out[scored] = torch.logsumexp(logits[logits_row[scored].long()].float(), dim=-1)
        return out
    row, edge = _children(node, children.begin)
    valid = _logit(logits, logits_row[row], children.code[edge].long())
    # Shifted by the largest *valid* logit: the row's largest would underflow where valid codes are the least likely.
    peak = torch.full_like(out, _NONE).scatter_reduce_(0, row, valid, "amax")
    mass = torch.zeros_like(out).index_add_(0, row, torch.exp(valid - peak[row]))
    return torch.where(scored, peak + torch.log(mass), out)


def _logit(logits: torch.Tensor, source: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """float32; 0 where a forced row has no logits."""
    if len(logits) == 0:
        return torch.zeros(len(code), device=logits.device)
    return torch.where(source >= 0, logits[source.clamp(min=0).long(), code].float(), 0.0)


def _children(node: torch.Tensor, child_begin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and edges of all children of all nodes, in row order and by code within a row; int64."""
    begin = child_begin[node.long()].long()
    count = child_begin[node.long() + 1].long() - begin
    row = torch.repeat_interleave(torch.arange(len(node), device=node.device), count)
    edge = torch.arange(len(row), device=node.device) + (begin - (torch.cumsum(count, 0) - count))[row]
    return row, edge
