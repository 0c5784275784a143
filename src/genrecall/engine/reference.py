"""The definition of an answer: plain loops over a HF model, no cache, no batch, no tricks.

``beams_{l+1} = top-W_l { (s + log p(c | prompt, prefix), prefix + c) : c ∈ children(prefix) }`` with p a softmax over
the children ("trie") or over the level's codes ("level"); beam search as in Sutskever et al. 2014 with the constraint
of De Cao et al. 2021. No deviation: this is what every faster engine is compared with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from genrecall.engine.config import Normalise
from genrecall.engine.host.request import Answer, Request, Sid
from genrecall.index.trie import Trie

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    trie: Trie,
    sid_tokens: Sequence[np.ndarray],
    request: Request,
    *,
    beam: int = 50,
    normalise: Normalise = "trie",
) -> Answer:
    """Answer one request; ``beam`` is the width of a request that names none."""
    widths = request.widths(trie.space.levels, beam)
    allowed = None if request.allowed is None else trie.allowed_nodes(request.allowed)
    beams: list[tuple[float, Sid]] = [(0.0, ())]
    for width in widths:
        grown = []
        for score, prefix in beams:
            log_probs = next_log_probs(model, trie, sid_tokens, request.tokens, prefix, normalise)
            for code, log_prob in log_probs.items():
                node = trie.walk((*prefix, code))
                if allowed is None or allowed[node]:
                    grown.append((score + log_prob, (*prefix, code)))
        beams = within_cap(sorted(grown, key=lambda beam: (-beam[0], beam[1])), request.most_a_code)[:width]
    return Answer(sids=[sid for _, sid in beams], scores=[score for score, _ in beams], short=len(beams) < widths[-1])


def within_cap(ranked: list[tuple[float, Sid]], most: int | None) -> list[tuple[float, Sid]]:
    """Of ranked beams at most ``most`` that begin with the same code."""
    seen: Counter[int] = Counter()
    kept = []
    for score, prefix in ranked:
        seen[prefix[0]] += 1
        if most is None or seen[prefix[0]] <= most:
            kept.append((score, prefix))
    return kept


@torch.no_grad()
def score(
    model: PreTrainedModel,
    trie: Trie,
    sid_tokens: Sequence[np.ndarray],
    tokens: Sequence[int],
    sid: Sid,
    *,
    normalise: Normalise = "trie",
) -> float:
    """Teacher-forced score of one valid SID after a prompt."""
    return sum(
        next_log_probs(model, trie, sid_tokens, tokens, sid[:level], normalise)[sid[level]]
        for level in range(trie.space.levels)
    )


def next_log_probs(
    model: PreTrainedModel,
    trie: Trie,
    sid_tokens: Sequence[np.ndarray],
    tokens: Sequence[int],
    prefix: Sid,
    normalise: Normalise,
) -> dict[int, float]:
    """``log p(code | prompt, prefix)`` of every valid next code, computed in float64 from the model's logits."""
    written = [*tokens, *(int(sid_tokens[level][code]) for level, code in enumerate(prefix))]
    logits = model(input_ids=torch.tensor([written], device=model.device), use_cache=False).logits[0, -1]
    of_level = logits.double().cpu()[torch.from_numpy(np.asarray(sid_tokens[len(prefix)], dtype=np.int64))]
    node = trie.walk(prefix)
    assert node is not None, "only valid prefixes are extended"
    codes = trie.children(node)[0].tolist()
    normaliser = torch.logsumexp(of_level[codes] if normalise == "trie" else of_level, dim=0)
    return {code: float(of_level[code] - normaliser) for code in codes}
