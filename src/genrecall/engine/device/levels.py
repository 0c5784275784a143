"""Several levels of given beams in one pass of a decoder.

``h_l = Layer_n(… Layer_1(e_l))`` for all levels l at once, each row seeing its prompt and its own path: what stands
above a row is known, so that a layer's keys of all levels are stored before any of them is attended to. Tree attention
(SpecInfer, Miao et al. 2023, arXiv 2305.09781); we deviate: levels are attended to one after the other, because paths
of a level are equally long, and share all else. Weights are read once instead of once a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genrecall.engine.device.decoder import BeamRows, Decoder
from genrecall.kernels.paged_attention import PagedKV, SuffixKV, attend_beams, most_splits


def step_levels(decoder: Decoder, tokens: torch.Tensor, levels: Sequence[BeamRows]) -> torch.Tensor:
    """Append one token each to the beams of all levels.

    Args:
        decoder: that writes codes.
        tokens: int32 (M,), of the rows of all levels, one level after the other.
        levels: where they belong; a row's path names suffix rows of this pass.

    Returns:
        Normed hidden states (M, E).
    """
    memory, suffix = decoder.memory, decoder.suffix
    pages = levels[0].table.shape[1] * memory.page_tokens
    tiles = [decoder._tiles(one.ranges, len(one.ancestry), one.table.shape[0], one.widest) for one in levels]
    splits = [
        1 if decoder.invariant else most_splits(len(one.count), decoder.architecture.kv_heads, pages) for one in tiles
    ]
    sizes = [len(one.ancestry) for one in levels]
    position = torch.cat([one.length[one.request] + (one.depth - 1) for one in levels])
    slot = torch.cat([one.ancestry[:, -1] for one in levels])
    x = decoder.embed(tokens)
    residual: torch.Tensor | None = None
    for index, layer in enumerate(decoder._layers):
        key, value = suffix.keys[index], suffix.values[index]
        qkv, total = layer.project(x, residual)
        query = layer.store(qkv, decoder._cos_sin, position, key.unsqueeze(2), value.unsqueeze(2), slot)
        parts = [
            attend_beams(
                own,
                PagedKV(key=memory.keys[index], value=memory.values[index], table=one.table, length=one.length),
                SuffixKV(key=key, value=value, ancestry=one.ancestry),
                cut, decoder._scale, parts,
            )
            for own, one, cut, parts in zip(query.split(sizes), levels, tiles, splits, strict=True)
        ]  # fmt: skip
        x, residual = decoder._finish(index, torch.cat(parts) if len(parts) > 1 else parts[0], total)
    return decoder._final(x, residual)
