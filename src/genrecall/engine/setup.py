"""What the engine is made of, sized for its model and device: every "auto" is resolved here, once.

pages · bytes(token) · P ≤ 0.4 · free memory,    U · N ≤ 512 MB
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from genrecall.engine.config import EngineConfig
from genrecall.engine.device.arithmetic import ARITHMETIC, Arithmetic, InBlocks
from genrecall.engine.device.beams import BeamSearch
from genrecall.engine.device.catalog import DeviceCatalog
from genrecall.engine.device.host_tier import HostTier
from genrecall.engine.device.memory import bytes_a_token
from genrecall.engine.device.open import SidDecoder, open_decoder
from genrecall.engine.device.runner import Room, Runner
from genrecall.engine.device.scoring import Scoring
from genrecall.engine.host.cost import CostModel
from genrecall.engine.host.pages import PageAllocator
from genrecall.engine.host.prefix_cache import PrefixCache
from genrecall.engine.host.scheduler import Limits, Scheduler
from genrecall.engine.host.step import fit, fit_requests
from genrecall.engine.host.tier import Slots
from genrecall.engine.loop import Loop
from genrecall.errors import CapacityError
from genrecall.hardware import has_bf16, pick_device
from genrecall.index.trie import Trie
from genrecall.model.trunk import ItemTrunk

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MASK_BYTES, _MOST_FILTERS = 2**29, 64
_KV_SHARE, _MOST_KV_TOKENS = 0.4, 1_000_000


def assemble(
    model: PreTrainedModel | ItemTrunk, trie: Trie, sid_tokens: Sequence[np.ndarray], config: EngineConfig
) -> Loop:
    """Copy the weights, allocate everything, and put the parts together.

    Raises:
        ConfigError: a model that the decoder would not compute rightly.
        CapacityError: what is asked for does not fit into memory.
    """
    device, budgets = pick_device(config.device), config.budgets
    dtype = _pick_dtype("bfloat16" if config.weights == "fp8" else config.dtype, device)
    arithmetic: Arithmetic = ARITHMETIC[config.weights]()
    arithmetic = InBlocks(arithmetic) if config.batch_invariant else arithmetic
    decoder = open_decoder(model, sid_tokens, device=device, dtype=dtype, arithmetic=arithmetic)
    max_rows = config.max_rows or _max_rows(model, device)
    filters = budgets.filters or max(1, min(_MOST_FILTERS, _MASK_BYTES // trie.num_nodes))
    limits = Limits(
        rows=max_rows,
        tokens=config.max_prompt_tokens,
        requests=budgets.requests,
        filters=filters,
        widest=max(max_rows, budgets.widest_beam),
        seconds=budgets.batch_s,
        patience_s=budgets.patience_s,
    )
    places = fit_requests(budgets.requests)
    kv_dtype = torch.float8_e4m3fn if config.prompt_kv == "fp8" else dtype
    pages = _pages(decoder, config, device, kv_dtype)
    suffix_rows = fit(limits.widest) * (len(sid_tokens) - 1) if device.type == "cuda" else 0
    decoder.allocate(
        pages=pages, page_tokens=budgets.page_tokens, prompt_dtype=kv_dtype, suffix_rows=suffix_rows, requests=places
    )
    catalog = DeviceCatalog(trie, headroom=budgets.catalog_headroom, filters=filters, device=device)
    tokens = [torch.from_numpy(np.asarray(ids, dtype=np.int32)).to(device) for ids in sid_tokens]
    skip = device.type == "cpu" if config.forced == "auto" else config.forced == "skip"
    widest = limits.widest if config.batch_invariant else None
    search = BeamSearch(decoder, catalog, tokens, config.normalise, skip, widest)
    room = Room(
        requests=places,
        tokens=max(config.max_prompt_tokens, decoder.window),
        pages=1 << (-(-decoder.window // budgets.page_tokens) - 1).bit_length(),
        rows=fit(limits.widest),
    )
    runner = Runner(search, Scoring(decoder, catalog, tokens, config.normalise), room, graphs=budgets.graphs)
    slots = budgets.host_kv_tokens // budgets.page_tokens
    cache = PrefixCache(PageAllocator(pages), budgets.page_tokens, Slots(slots))
    tier = HostTier(decoder.memory, slots)
    return Loop(Scheduler(limits, cache, CostModel(), time.monotonic), runner, tier)


def _pages(decoder: SidDecoder, config: EngineConfig, device: torch.device, dtype: torch.dtype) -> int:
    """Page 0, which padding has, then what was asked for or what memory allows."""
    budgets = config.budgets
    least = max(config.max_prompt_tokens, decoder.window) + budgets.requests * budgets.page_tokens
    tokens = budgets.kv_tokens or 2 * least
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        room = int(free * _KV_SHARE) // bytes_a_token(decoder.architecture, dtype)
        tokens = budgets.kv_tokens or min(room, _MOST_KV_TOKENS)
        if tokens > room / _KV_SHARE or tokens < decoder.window:
            raise CapacityError(
                "the engine's key-value memory does not fit the device or the model's window",
                seen=f"{tokens} tokens",
                allowed=f"{decoder.window} to {int(room / _KV_SHARE)}",
                fix="set Budgets.kv_tokens, or use a smaller model or window",
            )
    return 1 + -(-tokens // budgets.page_tokens)


def _pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and has_bf16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _max_rows(model: PreTrainedModel | ItemTrunk, device: torch.device) -> int:
    """A beam of a light depth decoder is so small that a GPU wants many at once."""
    return 32768 if isinstance(model, ItemTrunk) and device.type == "cuda" else 4096
