"""``logit = w · [x_L; MLP(x_0)] + b`` over embeddings, numbers, pooled histories and the generator's state.

The network of ``rank.model`` (DCN-v2, Wang et al., WWW 2021; DIN, Zhou et al., KDD 2018) with its weights taken apart.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from genrecall.kernels.crossed_rows.reference import crossed_rows
from genrecall.kernels.rank_network import Dense, Joint, Lookups, Numbers, Pairs, Pooling, Told


def room(tensor: torch.Tensor) -> int:
    """Plain torch has no tiles."""
    return 2**62


def brought(state: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
            ) -> torch.Tensor:  # fmt: skip
    """See the contract in ``__init__``."""
    return F.linear(torch.nan_to_num((state - mean) / spread, nan=0.0), weight, bias)


def fill(
    x: torch.Tensor, pairs: Pairs, told: Told, lookups: Lookups, numbers: Numbers | None, joint: Joint | None
) -> None:
    """See the contract in ``__init__``."""
    items, owner = pairs.items.long(), pairs.owner
    crossed = crossed_rows(told.codes, lookups.codes, lookups.buckets, owner, pairs.items)
    rows = torch.cat([lookups.item_rows[:, items].long(), told.rows[:, owner].long(), crossed])
    for own, (begin, width, column) in zip(rows, lookups.places.tolist(), strict=True):
        where = begin + own[:, None] * width + torch.arange(width, device=x.device)
        x[:, column : column + width] = lookups.flat[where].float()
    if numbers is not None:
        values = x.new_empty(len(items), len(numbers.mean))
        values[:, : numbers.evidence] = told.evidence
        values[:, numbers.logged_at.long()] = numbers.logged[items]
        values[:, numbers.summed_at.long()] = (told.sums + numbers.floors[:, None]).log().float().t()
        standard = torch.nan_to_num((values - numbers.mean) / numbers.spread, nan=0.0)
        x[:, numbers.column : numbers.column + standard.shape[1]] = standard
    if joint is None:
        return
    vector = None
    if joint.vectors is not None and joint.weight is not None:
        vector = F.linear(joint.vectors[items], joint.weight)
        x[:, joint.column : joint.column + vector.shape[1]] = vector
    if told.state is not None:
        state = told.state[owner]
        x[:, joint.state_column : joint.state_column + state.shape[1]] = state
        if vector is not None:
            x[:, joint.product_column : joint.product_column + state.shape[1]] = state * vector


def pool(
    x: torch.Tensor, pairs: Pairs, flat: torch.Tensor, rows: torch.Tensor, count: torch.Tensor, pooling: Pooling
) -> None:
    """See the contract in ``__init__``."""
    owner, wide = pairs.owner, pooling.width
    keys = flat[pooling.begin + rows[:, :, None].long() * wide + torch.arange(wide, device=x.device)].float()[owner]
    there = torch.arange(rows.shape[1], device=x.device) < count[owner, None]
    weights = there.float()
    if pooling.inner is not None:
        assert pooling.bias is not None
        assert pooling.outer is not None
        query = x[:, pooling.query : pooling.query + wide]
        of_q, of_k, of_both = pooling.inner
        hidden = F.linear(query, of_q, pooling.bias)[:, None] + F.linear(keys, of_k)
        hidden = F.relu(hidden + F.linear(query[:, None] * keys, of_both))
        weights = (hidden @ pooling.outer + pooling.shift) * there
    total = torch.bmm(weights[:, None], keys)[:, 0]
    x[:, pooling.column : pooling.column + wide] = total / count.clamp(min=1)[owner, None]


def logits(x: torch.Tensor, dense: Dense) -> torch.Tensor:
    """See the contract in ``__init__``."""
    crossed = x
    for down, up, bias in zip(dense.down, dense.up, dense.cross_bias, strict=True):
        crossed = x * F.linear(F.linear(crossed, down), up, bias) + crossed
    found = crossed @ dense.head + dense.bias
    if dense.first is not None:
        hidden = F.relu(F.linear(x, dense.first, dense.deep_bias[0]))
        for weight, bias in zip(dense.rest, dense.deep_bias[1:], strict=True):
            hidden = F.relu(F.linear(hidden, weight, bias))
        found = found + hidden @ dense.deep_head
    return torch.stack([found, torch.sigmoid(dense.slope * found + dense.shift)])
