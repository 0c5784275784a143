"""``top-W over { s_m + z_mc − log Σ_{c' ∈ valid(m)} exp z_mc' : c ∈ valid(m) }``: plain torch over CSR children.

The constraint follows STATIC (Su et al. 2026, arXiv 2602.22647): mask first, select afterwards, so that a beam whose
only valid child is unlikely keeps it. We deviate: only existing children are enumerated instead of all C codes, and
ties are resolved by SID, which makes the result independent of the order of reduction.
"""

from __future__ import annotations

import torch

_NONE = float("-inf")


def trie_topk(
    logits: torch.Tensor,
    logits_row: torch.Tensor,
    score: torch.Tensor,
    node: torch.Tensor,
    request: torch.Tensor,
    width: torch.Tensor,
    child_begin: torch.Tensor,
    child_code: torch.Tensor,
    over_children: bool,
    allowed: torch.Tensor | None,
    allowed_row: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``. Returns parent, code, node, score of the survivors."""
    scored = logits_row >= 0
    node_of = torch.empty_like(node[: len(logits)])
    node_of[logits_row[scored]] = node[scored]
    normaliser = log_normaliser(logits, node_of, child_begin, child_code, over_children)
    # A forced child has probability 1: nothing is taken off its score here and its logit below counts as 0.
    base = score.clone()
    base[scored] -= normaliser[logits_row[scored]]

    row, edge = _children(node, child_begin)
    code = child_code[edge].long()
    source = logits_row[row]
    logit = logits[source.clamp(min=0), code] if len(logits) else base.new_zeros(len(row))
    total = base[row] + torch.where(source >= 0, logit, 0.0)
    owner = request[row]
    if allowed is not None and allowed_row is not None:
        mask_row = allowed_row[owner]
        total = torch.where((mask_row < 0) | allowed[mask_row.clamp(min=0), edge + 1], total, _NONE)

    # (R, X): each request's candidates side by side. Rows come in SID order and children by code, so columns do too.
    count = torch.bincount(owner, minlength=len(width))
    first = torch.cumsum(count, 0) - count
    columns = int(count.max()) if len(owner) else 0
    if columns == 0:
        return row, code, edge, total
    table = total.new_full((len(width), columns), _NONE)
    table[owner, torch.arange(len(owner), device=owner.device) - first[owner]] = total
    chosen = _best(table, width).nonzero()
    flat = first[chosen[:, 0]] + chosen[:, 1]
    return row[flat], code[flat], edge[flat] + 1, total[flat]


def log_normaliser(
    logits: torch.Tensor, node: torch.Tensor, child_begin: torch.Tensor, child_code: torch.Tensor, over_children: bool
) -> torch.Tensor:
    """``log Σ exp z`` of each logits row (B,), over the children of its node (B,) or over all C codes."""
    if not over_children:
        return torch.logsumexp(logits, dim=-1)
    row, edge = _children(node, child_begin)
    valid = logits[row, child_code[edge].long()]
    # Shifted by the largest *valid* logit: the row's largest would underflow where valid codes are the least likely.
    peak = logits.new_full((len(node),), _NONE).scatter_reduce_(0, row, valid, "amax")
    mass = torch.zeros_like(peak).index_add_(0, row, torch.exp(valid - peak[row]))
    return peak + torch.log(mass)


def code_log_probs(
    logits: torch.Tensor,
    node: torch.Tensor,
    code: torch.Tensor,
    child_begin: torch.Tensor,
    child_code: torch.Tensor,
    over_children: bool,
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    chosen = logits.gather(1, code[:, None])[:, 0]
    return chosen - log_normaliser(logits, node, child_begin, child_code, over_children)


def _children(node: torch.Tensor, child_begin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and edges of all children of all nodes, in row order and by code within a row."""
    begin = child_begin[node]
    count = child_begin[node + 1] - begin
    row = torch.repeat_interleave(torch.arange(len(node), device=node.device), count)
    edge = torch.arange(len(row), device=node.device) + (begin - (torch.cumsum(count, 0) - count))[row]
    return row, edge


def _best(table: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """bool (R, X): the ``width`` largest of each row, the leftmost of those equal to the smallest kept."""
    columns = table.shape[1]
    most = min(int(width.max()), columns)
    last = torch.topk(table, most, dim=1).values.gather(1, width.clamp(max=most)[:, None] - 1)
    above = table > last
    tied = (table == last) & (table > _NONE)
    room = width[:, None] - above.sum(1, keepdim=True)
    return above | (tied & (torch.cumsum(tied, 1) <= room))
