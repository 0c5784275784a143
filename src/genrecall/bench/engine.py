"""Throughput of the engine beside transformers' own constrained beam search, in one process, on one device.

Both answer the same prompts with the same random weights under the same trie. Figures are medians over repeats and are
meant as ratios within one run: shared machines drift.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from genrecall import hardware
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.index.trie import Trie
from genrecall.model.backbones import build_scratch
from genrecall.model.config import ModelConfig
from genrecall.sid.space import SidSpace


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """One point.

    Attributes:
        size: of the random model.
        items: in the catalog, with random SIDs.
        levels, codes: of the SID space.
        prompt: tokens a prompt.
        beam: W; all beams come back.
        requests: a call.
        repeats: timed calls, after one that is not.
        transformers_requests: a call of transformers' search, which is slow; 0 leaves it out.
        device, dtype: of both.
        seed: of weights, SIDs and prompts.
    """

    size: str = "small"
    items: int = 10_000
    levels: int = 4
    codes: int = 256
    prompt: int = 150
    beam: int = 50
    requests: int = 32
    repeats: int = 5
    transformers_requests: int = 2
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0


def measure(config: EngineBench) -> dict[str, Any]:
    """Requests per second of both, their ratio, and on what this was measured."""
    rng = np.random.default_rng(config.seed)
    space = SidSpace.uniform(config.levels, config.codes)
    sids = np.unique(rng.integers(0, config.codes, (config.items, config.levels)), axis=0)
    trie = Trie.build(space, sids)
    model = build_scratch(ModelConfig(size=config.size, seed=config.seed), space.num_tokens + 1).eval()
    tokens = [1 + space.offset(level) + np.arange(size) for level, size in enumerate(space.codes)]
    settings = EngineConfig(beam=config.beam, device=config.device, dtype=config.dtype)
    engine = Engine(model, trie, tokens, settings)
    prompts = rng.integers(0, space.num_tokens + 1, (config.requests, config.prompt))
    requests = [Request(tokens=tuple(row)) for row in prompts.tolist()]
    ours = _rate(lambda: engine.generate(requests), config.requests, config.repeats, engine.device)
    found: dict[str, Any] = {
        "config": asdict(config),
        "hardware": hardware.describe(),
        "device": str(engine.device),
        "dtype": str(engine.dtype),
        "parameters": model.num_parameters(),
        "engine_requests_per_s": ours,
    }
    if config.transformers_requests:
        model = model.to(engine.device, engine.dtype)
        few = torch.as_tensor(prompts[: config.transformers_requests], device=engine.device)
        search = _transformers_search(model, few, trie, tokens, config.beam)
        theirs = _rate(search, len(few), max(config.repeats // 2, 1), engine.device)
        found |= {"transformers_requests_per_s": theirs, "ratio": ours / theirs}
    return found


def _transformers_search(
    model: Any, prompts: torch.Tensor, trie: Trie, tokens: list[np.ndarray], beam: int
) -> Callable[[], object]:
    """`generate` with a prefix callback: the usual way to constrain a beam."""
    first = [int(level[0]) for level in tokens]
    length = prompts.shape[1]

    def allowed(batch: int, row: torch.Tensor) -> list[int]:
        prefix = [int(token) - first[level] for level, token in enumerate(row[length:].tolist())]
        node = trie.walk(prefix)
        assert node is not None
        return (trie.children(node)[0] + first[len(prefix)]).tolist()

    def search() -> object:
        with torch.inference_mode():
            return model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                num_beams=beam,
                num_return_sequences=beam,
                do_sample=False,
                min_new_tokens=trie.space.levels,
                max_new_tokens=trie.space.levels,
                prefix_allowed_tokens_fn=allowed,
                pad_token_id=0,
            )

    return search


def _rate(call: Callable[[], object], requests: int, repeats: int, device: torch.device) -> float:
    """Median requests per second; the first call warms up."""
    seconds = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if repeat:
            seconds.append(time.perf_counter() - start)
    return requests / statistics.median(seconds)
