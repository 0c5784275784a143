"""transformers' own constrained beam search as the baseline: `generate` with a prefix callback, one request a call."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from genrecall.index.trie import Trie

_REPEATS = 2


def transformers_rate(model: Any, prompt: list[int], trie: Trie, tokens: list[np.ndarray], beam: int) -> float:
    """Median requests per second, after one call that does not count."""
    first = [int(level[0]) for level in tokens]
    prompts = torch.tensor([prompt], device=model.device)
    length = len(prompt)

    def allowed(batch: int, row: torch.Tensor) -> list[int]:
        prefix = [int(token) - first[level] for level, token in enumerate(row[length:].tolist())]
        node = trie.walk(prefix)
        # A beam that ended up outside the trie, as theirs can where fewer SIDs than beams exist, may go anywhere.
        return [first[len(prefix)]] if node is None else (trie.children(node)[0] + first[len(prefix)]).tolist()

    seconds = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(
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
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        seconds.append(time.perf_counter() - start)
    return 1 / statistics.median(seconds[1:])
