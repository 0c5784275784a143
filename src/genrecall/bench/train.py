"""Steps of supervised training, on one device or, under torchrun, on several: the run that `genrecall train` makes.

    share of peak = 6 · P · tokens/s / (processes · peak),    P: parameters of the linear layers of the blocks

after the count of Chowdhery et al. 2022 (PaLM, arXiv 2204.02311, app. B); we deviate and leave attention out, too, as
well as everything that is computed twice, so the figure is a lower bound. Histories are random and equally long: rows
are filled but for rounding. Losses say nothing.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrecall import hardware, processes
from genrecall.bench.shapes import random_model, shape_of
from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.index.trie import Trie
from genrecall.prompt.history import HistoryConfig
from genrecall.prompt.prompt import PromptBuilder
from genrecall.prompt.template import load_template
from genrecall.prompt.vocabulary import Vocabulary
from genrecall.sid.space import SidSpace
from genrecall.telemetry import log, progress
from genrecall.train.alignment import examples_of
from genrecall.train.checkpoint import Progress
from genrecall.train.config import TrainConfig
from genrecall.train.norm import cheap_norms
from genrecall.train.run import Run
from genrecall.train.supervised import Targets


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """What is measured.

    Attributes:
        shape: of the model, see ``shapes``; random weights.
        history: items of a user; each of them but the first is a target.
        items: of the catalog.
        levels, codes: of the SID space.
        layers: so many of the shape's, where all of them do not fit; None: all.
        batch_tokens, accumulate, shard, gradient_checkpointing, stored_layers, precision: see ``TrainConfig``.
        steps: that are timed, after two that are not.
        device: ``auto``, ``cpu``, ``cuda``.
        seed: of everything.
    """

    shape: str = "small"
    layers: int | None = None
    history: int = 35
    items: int = 10_000
    levels: int = 4
    codes: int = 256
    batch_tokens: int = 8192
    accumulate: int = 1
    shard: bool = False
    gradient_checkpointing: bool = False
    stored_layers: int = 0
    precision: str = "auto"
    steps: int = 10
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        most = shape_of(self.shape).layers
        layers = most if self.layers is None else self.layers
        if min(self.history - 1, self.items, self.levels, self.codes, self.steps) < 1 or not 1 <= layers <= most:
            raise ConfigError(
                "this training cannot be measured",
                seen=f"history={self.history}, items={self.items}, layout={self.levels}x{self.codes}, "
                f"steps={self.steps}, layers={self.layers}",
                allowed=f"two items a history and more; positive sizes; at most {most} layers",
                fix="correct the options",
            )

    @property
    def case(self) -> str:
        """What it is called in a file of results."""
        how = f"{self.shape}, " if self.layers is None else f"{self.shape} cut to {self.layers} layers, "
        how += f"{'one model over' if self.shard else 'copies on'} {processes.world()}, {self.precision}, "
        how += f"{self.batch_tokens} tokens x {self.accumulate}"
        stored = f" but of {self.stored_layers} layers" if self.stored_layers else ""
        return how + (f", activations twice{stored}" if self.gradient_checkpointing else "")


_UNTIMED = 2


def measure_into(bench: TrainBench, out: Path) -> dict[str, Any] | None:
    """``measure``, kept in a file by case; one that it holds is not measured again. All processes must see the file."""
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"cases": {}}
    known: dict[str, Any] | None = found["cases"].get(bench.case)
    if known is not None:
        log(f"{bench.case}: measured before")
        return known if processes.is_main() else None
    figures = measure(bench)
    if figures is not None:
        found["cases"][bench.case] = figures
        temporary = out.with_name(f".{out.name}.writing")
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        temporary.replace(out)
    return figures


def measure(bench: TrainBench) -> dict[str, Any] | None:
    """Speed and memory; under torchrun None in all processes but the first."""
    space, rng = SidSpace.uniform(bench.levels, bench.codes), np.random.default_rng(bench.seed)
    sids = rng.integers(0, bench.codes, (bench.items, bench.levels), dtype=np.int32)
    template = load_template("compact")
    vocabulary = Vocabulary.scratch(space, template.texts())
    shape = shape_of(bench.shape)
    shape = replace(shape, layers=bench.layers or shape.layers)
    prompts = PromptBuilder(vocabulary, template, HistoryConfig(max_items=bench.history), sids, max_tokens=shape.window)
    config = TrainConfig(
        batch_tokens=bench.batch_tokens, accumulate=bench.accumulate, shard=bench.shard, optimizer="adamw", dropout=0.0,
        gradient_checkpointing=bench.gradient_checkpointing, stored_layers=bench.stored_layers,
        precision=bench.precision, device=bench.device, seed=bench.seed,
    )  # fmt: skip
    users = _users(bench)
    histories = Histories.from_lists(
        rng.integers(0, bench.items, (users, bench.history)).tolist(), [list(range(bench.history))] * users
    )
    examples = examples_of(prompts, histories, None, config, None)
    targets = Targets(Trie.build(space, sids), sids, config.normalise, None)
    # Every process makes the same weights on its own device and then keeps its part of them.
    device = hardware.pick_device(bench.device)
    model = random_model(shape, vocabulary.size, device=device, dtype=torch.float32, seed=bench.seed)
    run = Run(model, examples, targets, config)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    run.plan(0)
    state = Progress()
    with (
        cheap_norms(run.model, active=run.device.type == "cpu" or run.sharded),
        progress("training steps", _UNTIMED + bench.steps) as bar,
    ):
        for step in range(_UNTIMED + bench.steps):
            if step == _UNTIMED:
                run.tokens = 0
                targets_before, begun = state.targets, _now(run)
            run.step(state)
            bar.advance()
    seconds = _now(run) - begun
    tokens = run.tokens * run.world / seconds
    if not run.main:
        return None
    linear = shape.layers * sum(out * into for out, into in shape.matrices)
    peak = hardware.peak_flops(device)
    flops = 6 * linear * tokens
    return {
        "config": asdict(bench),
        "hardware": hardware.describe(),
        "device": str(device),
        "processes": run.world,
        "sharded": run.sharded,
        "bfloat16": run.bfloat16,
        "linear_parameters": linear,
        "step_s": seconds / bench.steps,
        "tokens_per_s": tokens,
        "targets_per_s": (state.targets - targets_before) / seconds,
        "flops_per_s": flops,
        "share_of_peak": None if peak is None else flops / (peak * run.world),
        "memory_gb": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
    }


def _users(bench: TrainBench) -> int:
    """As many as fill every step with room to spare, however many processes there are."""
    tokens = (_UNTIMED + bench.steps + 1) * bench.batch_tokens * bench.accumulate * processes.world()
    return max(2 * tokens // (bench.history * bench.levels), 8)


def _now(run: Run) -> float:
    """When all processes are here and their devices have done what they were given."""
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    run.wait()
    return time.perf_counter()
