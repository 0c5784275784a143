"""The engine: prompts in, SIDs out.

``answer = the W valid SIDs with the largest Σ_l log p(s_l | prompt, s_<l)`` that beam search finds (exactly the W best
where W covers every prefix of every level). Defined by ``engine.reference``; this one batches requests, reads each
prompt once and runs only the beams that still branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from genrecall.engine.config import EngineConfig
from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.batch import Filters, Prompts
from genrecall.engine.device.beams import BeamSearch, Frontier
from genrecall.engine.device.open import open_decoder
from genrecall.engine.host.batching import plan_batches
from genrecall.engine.host.request import Answer, LevelTrace, Request, Sid, TracedBeam
from genrecall.errors import ConfigError
from genrecall.hardware import has_bf16, pick_device
from genrecall.index.layout import TrieTensors
from genrecall.index.trie import Trie
from genrecall.model.trunk import ItemTrunk

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Engine:
    """Constrained generation with one model and one trie. Weights are copied when it is made; nothing is cached after.

    Args:
        model: a Llama, Qwen2 or Qwen3 causal language model of transformers, adapters merged, or an item trunk.
        trie: the active catalog.
        sid_tokens: for each of L levels, the int64 (C,) token ids of its codes (in a trunk: of its depth decoder).
        config: settings.

    Raises:
        ConfigError: a model that the decoder would not compute rightly, or tokens that do not fit the trie.
    """

    def __init__(
        self,
        model: PreTrainedModel | ItemTrunk,
        trie: Trie,
        sid_tokens: Sequence[np.ndarray],
        config: EngineConfig | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.trie = trie
        self.device = pick_device(self.config.device)
        self.dtype = _pick_dtype(self.config.dtype, self.device)
        _require_tokens(sid_tokens, trie, _written_rows(model))
        self._decoder = open_decoder(model, sid_tokens, device=self.device, dtype=self.dtype)
        tokens = [torch.from_numpy(np.asarray(ids, dtype=np.int64)).to(self.device) for ids in sid_tokens]
        self._search = BeamSearch(self._decoder, TrieTensors.of(trie, self.device), tokens, self.config.normalise)

    @property
    def _max_rows(self) -> int:
        return self.config.max_rows or self._decoder.max_rows

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in the order of the requests; any number of them, of mixed lengths, widths and filters."""
        levels = self.trie.space.levels
        widths = [request.widths(levels, self.config.beam) for request in requests]
        self._require(requests)
        # No level holds more beams than it has nodes, however wide the request.
        nodes = [len(self.trie.nodes_at(depth + 1)) for depth in range(levels)]
        widths = [tuple(min(width, max(count, 1)) for width, count in zip(row, nodes, strict=True)) for row in widths]
        asked = [request.widths(levels, self.config.beam)[-1] for request in requests]
        answers: list[Answer | None] = [None] * len(requests)
        for batch in self._plan(requests, [max(row) for row in widths]):
            members = [requests[index] for index in batch]
            trail = self._search.search(
                Prompts.of(members, self.device),
                [widths[index] for index in batch],
                Filters.of(members, self.trie, self.device),
            )
            for index, answer in zip(batch, self._answers(members, trail, [asked[i] for i in batch]), strict=True):
                answers[index] = answer
        return [answer for answer in answers if answer is not None]

    @torch.inference_mode()
    def score(self, requests: Sequence[Request], sids: Sequence[Sequence[Sid] | np.ndarray]) -> list[np.ndarray]:
        """Scores of given SIDs, the same sums that ``generate`` ranks by; filters and widths play no part.

        Args:
            requests: R prompts.
            sids: for each request any number of SIDs, of the catalog or not; integer arrays (n, L) are quickest.

        Returns:
            For each request float32 scores in its SIDs' order; -inf for a SID that the trie does not hold.
        """
        assert len(sids) == len(requests), "one list of SIDs per request"
        self._require(requests)
        levels = self.trie.space.levels
        codes = [np.asarray(rows, dtype=np.int64).reshape(-1, levels) for rows in sids]
        cuts = np.cumsum([len(rows) for rows in codes])[:-1]
        paths = np.split(self.trie.paths(np.concatenate(codes)), cuts) if codes else []
        scores = [np.full(len(rows), -np.inf, dtype=np.float32) for rows in codes]
        # A request with more SIDs than a pass has rows is read once for each part of them.
        parts = [
            (index, part)
            for index, path in enumerate(paths)
            for part in _split(np.flatnonzero(path[:, -1] >= 0), self._max_rows)
        ]
        members = [requests[index] for index, _ in parts]
        for batch in self._plan(members, [len(part) for _, part in parts]):
            chosen = [parts[number] for number in batch]
            request = np.repeat(np.arange(len(chosen)), [len(part) for _, part in chosen])
            found = self._search.score(
                Prompts.of([members[number] for number in batch], self.device),
                torch.from_numpy(request).to(self.device),
                torch.from_numpy(np.concatenate([codes[index][part] for index, part in chosen])).to(self.device),
                torch.from_numpy(np.concatenate([paths[index][part, :-1] for index, part in chosen])).to(self.device),
            )
            begins = np.cumsum([len(part) for _, part in chosen])[:-1]
            for (index, part), values in zip(chosen, np.split(found.cpu().numpy(), begins), strict=True):
                scores[index][part] = values
        return scores

    def _require(self, requests: Sequence[Request]) -> None:
        decoder = self._decoder
        for request in requests:
            request.require(vocabulary=decoder.vocabulary, window=decoder.window, items=self.trie.num_items)

    def _plan(self, requests: Sequence[Request], rows: Sequence[int]) -> list[list[int]]:
        lengths = [len(request.tokens) for request in requests]
        most = self.config.max_prompt_tokens
        return list(plan_batches(lengths, rows, max_rows=self._max_rows, max_prompt_tokens=most))

    def _answers(self, requests: Sequence[Request], trail: list[Frontier], asked: Sequence[int]) -> list[Answer]:
        """Split the last frontier by request and put each part in order of score."""
        last = trail[-1]
        owner, score, codes = last.request.cpu().numpy(), last.score.cpu().numpy(), last.codes.cpu().numpy()
        begins = np.searchsorted(owner, np.arange(len(requests) + 1))
        traced = [index for index, request in enumerate(requests) if request.trace]
        traces = self._traces(trail, traced) if traced else {}
        answers = []
        for index in range(len(requests)):
            part = slice(begins[index], begins[index + 1])
            order = np.argsort(-score[part], kind="stable")  # rows come in SID order: ties stay so
            answers.append(
                Answer(
                    sids=list(map(tuple, codes[part][order].tolist())),
                    scores=score[part][order].tolist(),
                    short=len(order) < asked[index],
                    levels=traces.get(index),
                )
            )
        return answers

    def _traces(self, trail: list[Frontier], requests: Sequence[int]) -> dict[int, tuple[LevelTrace, ...]]:
        found: dict[int, list[LevelTrace]] = {index: [] for index in requests}
        for level, frontier in enumerate(trail):
            owner, score, codes = (x.cpu().numpy() for x in (frontier.request, frontier.score, frontier.codes))
            children = self.trie.num_children[frontier.node.cpu().numpy()]
            kept = children
            if level + 1 < len(trail):
                kept = np.bincount(trail[level + 1].parent.cpu().numpy(), minlength=len(owner))
            for index in requests:
                rows = np.flatnonzero(owner == index)
                rows = rows[np.argsort(-score[rows], kind="stable")]
                beams = tuple(
                    TracedBeam(
                        prefix=tuple(codes[row].tolist()),
                        score=float(score[row]),
                        children=int(children[row]),
                        pruned=int(children[row] - kept[row]),
                    )
                    for row in rows
                )
                found[index].append(LevelTrace(level=level, beams=beams))
        return {index: tuple(levels) for index, levels in found.items()}


def _pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and has_bf16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _split(rows: np.ndarray, most: int) -> list[np.ndarray]:
    return [rows[begin : begin + most] for begin in range(0, len(rows), most)]


def _written_rows(model: PreTrainedModel | ItemTrunk) -> int:
    return model.space.num_tokens if isinstance(model, ItemTrunk) else Architecture.read(model).vocabulary


def _require_tokens(sid_tokens: Sequence[np.ndarray], trie: Trie, vocabulary: int) -> None:
    sizes = tuple(len(ids) for ids in sid_tokens)
    if sizes != trie.space.codes:
        raise ConfigError(
            "the SID tokens do not fit the trie",
            seen=f"{sizes} tokens by level",
            allowed=f"{trie.space.codes}",
            fix="use the vocabulary and the SID table of one bundle",
        )
    ids = np.concatenate(list(map(np.asarray, sid_tokens)))
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise ConfigError(
            "SID tokens lie outside the model's vocabulary",
            seen=f"{ids.min()} … {ids.max()}",
            allowed=f"0 … {vocabulary - 1}",
            fix="use the vocabulary that was stored with this model",
        )
