"""What the engine is made of, sized for its model and device: every "auto" is resolved here, once.

pages · bytes(token) · P ≤ 0.4 · free memory,    U · N ≤ 512 MB
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from genrecall.engine.config import EngineConfig
from genrecall.engine.device.arithmetic import ARITHMETIC, Arithmetic, InBlocks
from genrecall.engine.device.beams import BeamSearch
from genrecall.engine.device.catalog import DeviceCatalog
from genrecall.engine.device.memory import bytes_a_token
from genrecall.engine.device.open import SidDecoder, open_decoder
from genrecall.engine.device.runner import Room, Runner
from genrecall.engine.device.scoring import Scoring
from genrecall.engine.device.shards import Blueprint, Checkpoint, Shard
from genrecall.engine.host.cost import CostModel
from genrecall.engine.host.pages import PageAllocator
from genrecall.engine.host.prefix_cache import PrefixCache
from genrecall.engine.host.scheduler import Limits, Scheduler
from genrecall.engine.host.step import fit, fit_pages, fit_requests
from genrecall.engine.host.tier import Slots
from genrecall.engine.loop import Loop
from genrecall.errors import CapacityError, ConfigError
from genrecall.hardware import has_bf16, pick_device
from genrecall.index.trie import Trie
from genrecall.model.trunk import ItemTrunk

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from genrecall.engine.device.parallel import Group

_MASK_BYTES, _MOST_FILTERS = 2**29, 64
KV_SHARE, MOST_KV_TOKENS = 0.4, 1_000_000
_WORTH_SHARE, _WORTH_ROWS = 0.1, 1536
"""Forced codes of the last level, and rows of a batch, from which on leaving them out pays: batches of two requests of
W=300 won 17%, open loops of W=50 a quarter within 100 ms, batches of four nothing (Qwen2-1.5B shape, H100)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Built:
    """What one rank runs batches with, and the sizes that its scheduler keeps to."""

    runner: Runner
    limits: Limits
    pages: int


def assemble(
    model: PreTrainedModel | ItemTrunk | Checkpoint, trie: Trie, sid_tokens: Sequence[np.ndarray], config: EngineConfig
) -> Loop:
    """Copy the weights, allocate everything, and put the parts together, on all ranks.

    Raises:
        ConfigError: a model that the decoder would not compute rightly, or that cannot be spread like this.
        CapacityError: what is asked for does not fit into memory.
    """
    plan = model if isinstance(model, ItemTrunk) else Blueprint.of(model)
    if config.parallel.ranks == 1:
        built = build(plan, trie, sid_tokens, config)
    else:
        built = _build_all(plan, trie, sid_tokens, config)
    slots = Slots(built.runner.room.slots)
    cache = PrefixCache(PageAllocator(built.pages), config.budgets.page_tokens, slots)
    return Loop(Scheduler(built.limits, cache, CostModel(), time.monotonic), built.runner)


def _build_all(
    plan: Blueprint | ItemTrunk, trie: Trie, sid_tokens: Sequence[np.ndarray], config: EngineConfig
) -> Built:
    from genrecall.engine.leading import LeadingRunner, told_of
    from genrecall.engine.ranks import lead

    if isinstance(plan, ItemTrunk):
        raise ConfigError(
            "an item trunk is not spread over several devices",
            seen=f"{config.parallel.ranks} ranks",
            allowed="1: its decoder is so small that sums between devices would take longer than it does",
            fix="leave --tp out, and serve several copies",
        )
    for rank in range(config.parallel.ranks):  # before any process is started
        Shard(rank=rank, ranks=config.parallel.ranks).of(plan.shape)
    leader = lead(config.parallel, pick_device(config.device))
    with leader.group.lock:  # another engine of these ranks may be serving: sums must meet in one order
        number, source = told_of(leader, plan, trie, sid_tokens, config)
        make = partial(LeadingRunner, leader=leader, number=number)
        return build(replace(plan, source=source), trie, sid_tokens, config, group=leader.group, make=make)


def build(
    model: Blueprint | ItemTrunk,
    trie: Trie,
    sid_tokens: Sequence[np.ndarray],
    config: EngineConfig,
    *,
    group: Group | None = None,
    make: Callable[..., Runner] = Runner,
) -> Built:
    """One rank's part of the engine; all ranks of a group must call it.

    Raises:
        CapacityError: what is asked for does not fit into memory.
    """
    device, budgets = pick_device(config.device) if group is None else group.device, config.budgets
    dtype = _pick_dtype("bfloat16" if config.weights == "fp8" else config.dtype, device)
    arithmetic: Arithmetic = ARITHMETIC[config.weights]()
    arithmetic = InBlocks(arithmetic) if config.batch_invariant else arithmetic
    shard = Shard() if group is None else group.shard
    total = None if group is None else group.sum(config.parallel, dtype, invariant=config.batch_invariant)
    by_tokens = config.parallel.sequence_tokens
    decoder = open_decoder(
        model, sid_tokens, device=device, dtype=dtype, arithmetic=arithmetic, shard=shard, total=total,
        exchange=group if by_tokens else None, tokens=by_tokens,
    )  # fmt: skip
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
    pages = pages if group is None else group.least(pages)
    suffix_rows = fit(limits.widest) * (len(sid_tokens) - 1) if device.type == "cuda" else 0
    decoder.allocate(
        pages=pages, page_tokens=budgets.page_tokens, prompt_dtype=kv_dtype, suffix_rows=suffix_rows, requests=places
    )
    catalog = DeviceCatalog(trie, headroom=budgets.catalog_headroom, filters=filters, device=device)
    tokens = [torch.from_numpy(np.asarray(ids, dtype=np.int32)).to(device) for ids in sid_tokens]
    compact_from = _compact_from(config, trie, device, isinstance(model, ItemTrunk))
    widest = 1 << (limits.widest - 1).bit_length() if config.batch_invariant else None
    rows = max(fit(limits.widest), places)
    search = BeamSearch(decoder, catalog, tokens, config.normalise, compact_from, rows=rows, widest=widest)
    room = Room(
        requests=places,
        tokens=max(config.max_prompt_tokens, decoder.window),
        pages=fit_pages(-(-decoder.window // budgets.page_tokens)),
        rows=fit(limits.widest),
        slots=budgets.host_kv_tokens // budgets.page_tokens,
    )
    runner = make(search, Scoring(decoder, catalog, tokens, config.normalise), room, graphs=budgets.graphs)
    return Built(runner=runner, limits=limits, pages=pages)


def _compact_from(config: EngineConfig, trie: Trie, device: torch.device, trunk: bool) -> int | None:
    """Rows of a batch from which on forced levels are left out of it; on a GPU where that is worth the waits."""
    if config.forced != "auto" or device.type == "cpu":
        return None if config.forced == "run" else 0
    begin, end = trie.level_begin[-3:-1]  # nodes before the last level
    single = np.diff(trie.child_begin[begin : end + 1]) == 1
    # Ranks would each read how many rows remain, and wait for each other forever where these differed.
    if trunk or config.parallel.ranks > 1 or single.sum() < _WORTH_SHARE * (trie.level_begin[-1] - end):
        return None
    return 0 if config.batch_invariant else _WORTH_ROWS  # one way for all batches


def _pages(decoder: SidDecoder, config: EngineConfig, device: torch.device, dtype: torch.dtype) -> int:
    """Page 0, which padding has, then what was asked for or what memory allows."""
    budgets = config.budgets
    least = max(config.max_prompt_tokens, decoder.window) + budgets.requests * budgets.page_tokens
    tokens = budgets.kv_tokens or 2 * least
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        room = int(free * KV_SHARE) // bytes_a_token(decoder.architecture, dtype)
        tokens = budgets.kv_tokens or min(room, MOST_KV_TOKENS)
        if tokens > room / KV_SHARE or tokens < decoder.window:
            raise CapacityError(
                "the engine's key-value memory does not fit the device or the model's window",
                seen=f"{tokens} tokens",
                allowed=f"{decoder.window} to {int(room / KV_SHARE)}",
                fix="set Budgets.kv_tokens, or use a smaller model or window",
            )
    return 1 + -(-tokens // budgets.page_tokens)


def _pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and has_bf16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _max_rows(model: Blueprint | ItemTrunk, device: torch.device) -> int:
    """A beam of a light depth decoder is so small that a GPU wants many at once."""
    return 32768 if isinstance(model, ItemTrunk) and device.type == "cuda" else 4096
