"""``o = softmax([q·Kpᵀ ; q·Ksᵀ]·scale) [Vp ; Vs]`` with ``Kp`` shared by a request's beams: plain torch.

Hydragen (Juravsky et al. 2024, arXiv 2402.05099) splits the softmax in two and joins them by their log-sum-exp. We
deviate: scores of both parts are laid side by side and softened once, and a beam's suffix is found by its ancestry
instead of by reordering the cache.
"""

from __future__ import annotations

import torch


def beam_attention(
    query: torch.Tensor,
    prefix_key: torch.Tensor,
    prefix_value: torch.Tensor,
    prefix_length: torch.Tensor,
    suffix_key: torch.Tensor,
    suffix_value: torch.Tensor,
    ancestry: torch.Tensor,
    request: torch.Tensor,
    slot: torch.Tensor,
    slots: int,
    scale: float,
) -> torch.Tensor:
    """See the contract in ``__init__``; ``request``, ``slot`` and ``slots`` are the fields of ``BeamRows``."""
    requests, kv_heads, tokens, width = prefix_key.shape
    group = query.shape[1] // kv_heads
    grouped = query.view(-1, kv_heads, group, width) * scale

    # One matrix product per request and KV head: its rows are laid into a padded block, (R, K, slots*group, D).
    block = grouped.new_zeros(requests, kv_heads, slots, group, width)
    block[request, :, slot] = grouped
    prefix_score = block.view(requests, kv_heads, slots * group, width) @ prefix_key.transpose(-1, -2)
    padding = torch.arange(tokens, device=query.device) >= prefix_length[:, None]
    prefix_score.masked_fill_(padding[:, None, None, :], float("-inf"))

    own_key, own_value = suffix_key[ancestry], suffix_value[ancestry]  # (M, G, K, D)
    suffix_score = torch.einsum("mkgd,mskd->mkgs", grouped, own_key)
    levels = ancestry.shape[1]
    score = torch.full(
        (requests, kv_heads, slots, group, tokens + levels), 0.0, dtype=torch.float32, device=query.device
    )
    score[..., :tokens] = prefix_score.view(requests, kv_heads, slots, group, tokens)
    score[..., tokens:][request, :, slot] = suffix_score.float()
    weight = torch.softmax(score, dim=-1).to(query.dtype)

    shared = weight[..., :tokens].reshape(requests, kv_heads, slots * group, tokens) @ prefix_value
    own = torch.einsum("mkgs,mskd->mkgd", weight[..., tokens:][request, :, slot], own_value)
    return (shared.view(requests, kv_heads, slots, group, width)[request, :, slot] + own).reshape(query.shape)
