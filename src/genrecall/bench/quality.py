"""The quality gate: what lower precision changes in the answers of a trained model, beside transformers in bf16.

    overlap = |A ∩ A_32| / |A_32|,    error = mean over A ∩ A_32 of |score − score_32|

A_32 are the SIDs that plain loops over the model in float32 find (``engine.reference``; the engine itself in float32
for models that transformers does not have). Random weights will not do: their scores are nearly uniform, so that any
rounding changes the set.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrecall import hardware
from genrecall.bench.rig import PRECISIONS
from genrecall.bundle.load import Recommender
from genrecall.engine import reference
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Answer, Request
from genrecall.errors import ConfigError
from genrecall.index.availability import allowed_items
from genrecall.model import trunk
from genrecall.model.trunk import ItemTrunk
from genrecall.model.weights import load_model
from genrecall.recall.channel import Query
from genrecall.telemetry import log, track

NEAR = 0.02
"""Two first answers whose float32 scores are nearer than this are a tie: bf16 has steps of 0.008 to 0.03 at 1 to 4."""
_SHORT = 10


@dataclass(frozen=True, kw_only=True)
class QualityBench:
    """What is compared.

    Attributes:
        bundle: with a trained model; of several generators the first.
        beam: W.
        precisions: of ``rig.PRECISIONS``.
        device: ``auto``, ``cpu``, ``cuda``.
    """

    bundle: Path
    beam: int = 50
    precisions: tuple[str, ...] = ("fp32", "int8")
    device: str = "auto"

    def __post_init__(self) -> None:
        unknown = [name for name in self.precisions if name not in PRECISIONS]
        if unknown or self.beam < 1:
            raise ConfigError(
                "this cannot be compared", seen=f"precisions={self.precisions}, beam={self.beam}",
                allowed=f"precisions of {', '.join(PRECISIONS)}; a beam of 1 or more", fix="correct the options",
            )  # fmt: skip


def measure(bench: QualityBench, shop: Recommender, queries: Sequence[Query], targets: np.ndarray) -> dict[str, Any]:
    """Each precision, and transformers in bf16, beside float32.

    Args:
        bench: what.
        shop: the bundle, opened on the CPU in float32.
        queries: N of them.
        targets: int (N,), the item that each is meant to find.

    Returns:
        Figures by way of computing; ``passed`` says whether bf16 and fp32 keep their bounds.
    """
    device = hardware.pick_device(bench.device)
    channel = shop.generative.members[0]
    items = channel.engine.trie.num_items
    requests = [
        Request(
            tokens=tuple(channel.prompts.encode(query.history, query.profile, query.times, query.text)),
            beam=bench.beam,
            allowed=allowed_items(items, exclude=query.exclude),
        )
        for query in queries
    ]
    wanted = [tuple(channel.table.sids[item].tolist()) for item in targets]
    engine, directory = channel.engine, bench.bundle / "model"
    tokens, normalise = engine.sid_tokens, engine.config.normalise
    plain = not (directory / trunk.CONFIG).is_file()

    def loops(dtype: torch.dtype) -> list[Answer]:
        model = load_model(directory, dtype=dtype, device=device)
        asked = track(requests, f"transformers in {dtype}".replace("torch.", ""), len(requests))
        return [reference.generate(model, engine.trie, tokens, request, normalise=normalise) for request in asked]

    exact = loops(torch.float32) if plain else engine.generate(requests)
    found: dict[str, Any] = {
        "config": asdict(bench) | {"bundle": str(bench.bundle), "cases": len(requests)},
        "bundle": shop.digest,
        "hardware": hardware.describe(),
        "device": str(device),
        "reference": "transformers, float32" if plain else "the engine, float32",
        "float32": {"recall": _recall(exact, wanted)},
    }
    for precision in bench.precisions:
        dtype, weights = PRECISIONS[precision]
        config = EngineConfig(
            dtype="bfloat16" if precision == "fp8" else dtype, weights=weights, normalise=normalise, device=str(device)
        )
        model: Any = load_model(directory) if plain else ItemTrunk.load(directory, channel.table.sids)
        answers = Engine(model, engine.trie, tokens, config).generate(requests)
        del model
        gc.collect()
        found[precision] = compare(answers, exact, wanted)
        log(f"{precision}: top-1 {found[precision]['top_1']:.1%}, overlap {found[precision]['overlap']:.1%}")
    if plain:  # as slow as the reference: whoever stops here has seen the rest
        found["transformers bf16"] = compare(loops(torch.bfloat16), exact, wanted)
    found["passed"] = gate(found)
    return found


def compare(answers: Sequence[Answer], exact: Sequence[Answer], wanted: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """One way of computing beside float32: figures over all cases."""
    same, ties, overlap, errors = 0, 0, [], []
    for ours, theirs in zip(answers, exact, strict=True):
        scores = dict(zip(theirs.sids, theirs.scores, strict=True))
        common = [(sid, score) for sid, score in zip(ours.sids, ours.scores, strict=True) if sid in scores]
        overlap.append(len(common) / max(len(theirs.sids), 1))
        errors += [abs(score - scores[sid]) for sid, score in common]
        if ours.sids[:1] == theirs.sids[:1]:
            same += 1
        elif theirs.scores[0] - scores.get(ours.sids[0], -np.inf) < NEAR:
            ties += 1
    return {
        "top_1": same / len(exact),
        "top_1_or_tie": (same + ties) / len(exact),
        "overlap": float(np.mean(overlap)),
        "error": float(np.mean(errors)) if errors else float("inf"),
        "recall": _recall(answers, wanted),
    }


def gate(found: dict[str, Any]) -> dict[str, bool]:
    """Bounds of bf16 beside transformers' own bf16, and of float32 beside float32; the rest is told, not judged."""
    passed = {}
    if "fp32" in found:
        passed["fp32 answers as the reference"] = found["fp32"]["top_1_or_tie"] == 1 and found["fp32"]["overlap"] > 0.99
    if "bf16" in found and "transformers bf16" in found:
        ours, theirs = found["bf16"], found["transformers bf16"]
        passed["bf16 has float32's first answer, or one as good"] = (
            ours["top_1_or_tie"] >= theirs["top_1_or_tie"] - 0.01
        )
        passed["bf16 overlaps as transformers' bf16, minus a point"] = ours["overlap"] >= theirs["overlap"] - 0.01
        passed["bf16 errs at most twice as much"] = ours["error"] <= 2 * theirs["error"]
    return passed


def _recall(answers: Sequence[Answer], wanted: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """Shares of cases whose item's SID is among the first ten, and among all."""
    places = [
        answer.sids.index(sid) if sid in answer.sids else None for answer, sid in zip(answers, wanted, strict=True)
    ]
    found = [place for place in places if place is not None]
    return {
        f"@{_SHORT}": sum(place < _SHORT for place in found) / len(wanted),
        "@beam": len(found) / len(wanted),
    }
