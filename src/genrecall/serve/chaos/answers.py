"""Answers held against what defines them: every SID is one, none comes twice, and a whole beam finds the best."""

from __future__ import annotations

from typing import Any

import numpy as np

from genrecall.serve.chaos.scenario import Setting
from genrecall.serve.chaos.target import Target

_VOCABULARY = 64


def valid(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Random tries under a random model: beams, then brute force where the beam covers every prefix."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from genrecall.engine.config import EngineConfig
    from genrecall.engine.engine import Engine
    from genrecall.engine.host.request import Request
    from genrecall.index.trie import Trie
    from genrecall.sid.space import SidSpace

    torch.manual_seed(0)
    rng, tries, beams, invalid, twice, other = np.random.default_rng(0), setting.times(10, 100), 0, 0, 0, 0
    shape: dict[str, Any] = {
        "vocab_size": _VOCABULARY, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64,
    }  # fmt: skip
    model = Qwen3ForCausalLM(Qwen3Config(**shape)).eval()
    for _ in range(tries):
        levels, codes = int(rng.integers(2, 5)), int(rng.integers(3, 9))
        space = SidSpace((codes,) * levels)
        sids = rng.integers(0, codes, (int(rng.integers(1, 200)), levels)).astype(np.int32)
        trie = Trie.build(space, sids)
        tokens = [np.arange(codes) + 20 + level for level in range(levels)]
        engine = Engine(model, trie, tokens, EngineConfig(device="cpu"))
        known = {tuple(sid) for sid in sids.tolist()}
        whole = len(known)
        widths = [whole, *rng.integers(1, 300, setting.times(4, 40)).tolist()]
        masks = [None, *(rng.random(len(sids)) < rng.random() for _ in widths[1:])]
        prompts = [tuple(rng.integers(0, 20, rng.integers(1, 12)).tolist()) for _ in widths]
        requests = [
            Request(tokens=prompt, beam=int(width), allowed=mask)
            for prompt, width, mask in zip(prompts, widths, masks, strict=True)
        ]
        answers = engine.generate(requests)
        for answer, mask in zip(answers, masks, strict=True):
            allowed = known if mask is None else {tuple(sid) for sid in sids[mask].tolist()}
            beams += len(answer.sids)
            invalid += sum(sid not in allowed for sid in answer.sids)
            twice += len(answer.sids) - len(set(answer.sids))
        every = sorted(known)
        scores = engine.score([requests[0]], [every])[0]
        best = [every[place] for place in np.argsort(-scores, kind="stable")]
        gap = np.abs(np.sort(scores)[::-1] - np.asarray(answers[0].scores, np.float32)).max()
        other += not (set(answers[0].sids) == set(best) and gap < 1e-3)
    text = f"{tries} tries, {beams} beams: {invalid} invalid, {twice} twice; {other} differ from brute force"
    return text, invalid == twice == other == 0 and beams > 0
