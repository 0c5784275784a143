"""Everything a run needs to go on as if it had never stopped, in safetensors and JSON, swapped in as one artifact.

A model that is spread over processes is never whole anywhere: each process writes its part to ``shards/`` (by
torch.distributed.checkpoint), and as many processes as there are the next time read what they need of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genrecall import artifacts, telemetry
from genrecall.errors import ArtifactError
from genrecall.train.sharding import is_spread, on_cpu, part_of, read_parts, write_parts

SHARDS = "shards"
KIND = "checkpoint"


@dataclass
class Progress:
    """Where a run stands; all of it is in the checkpoint.

    Attributes:
        epoch, batch: the next step starts at this batch of this epoch.
        step: optimiser steps done.
        seconds: wall time used.
        share: progress in [0, 1] at the last step.
        targets: target items learnt from.
        loss_sum, loss_targets: since the last line of the log.
        best: best validation so far, ``best_epoch`` when it was; None before the first.
        worse: validations since then.
        validations: done so far.
        validation_s: longest validation, seconds.
        lines: of metrics.jsonl.
        stopped: why the run has ended; None while it goes on.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    share: float = 0.0
    targets: int = 0
    loss_sum: float = 0.0
    loss_targets: int = 0
    best: float | None = None
    best_epoch: float = 0.0
    worse: int = 0
    validations: int = 0
    validation_s: float = 0.0
    lines: int = 0
    stopped: str | None = None


def state_of(
    weights: Mapping[str, torch.Tensor],
    average: Mapping[str, torch.Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
) -> dict[str, torch.Tensor]:
    """All tensors of a run, where and as they are."""
    tensors = {f"weight/{name}": tensor for name, tensor in weights.items()}
    tensors |= {f"average/{name}": tensor for name, tensor in average.items()}
    for which, optimizer in enumerate(optimizers):
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{which}/{number}/{name}": torch.as_tensor(value) for name, value in state.items()}
    return tensors


def random_state() -> dict[str, torch.Tensor]:
    """This process's random generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def save(
    path: Path,
    *,
    identity: Mapping[str, Any],
    progress: Progress,
    tensors: Mapping[str, torch.Tensor],
    random: Sequence[Mapping[str, torch.Tensor]],
    main: bool = True,
    agree: Callable[[Any], Any] = lambda value: value,
) -> None:
    """Write a checkpoint; kill it anywhere and the one before remains. All processes of a run must call it.

    Args:
        path: of the artifact.
        identity: of the run.
        progress: where it stands.
        tensors: of ``state_of``.
        random: ``random_state`` of each process, in the main one.
        main: whether this is the process that writes what is not spread.
        agree: gives every process the main one's value.
    """
    from safetensors.torch import save_file

    spread = any(map(is_spread, tensors.values()))
    held = {} if spread else on_cpu(tensors, keep=main)
    held |= {f"random{rank}/{name}": state for rank, own in enumerate(random) for name, state in own.items()}
    opened = artifacts.write_artifact(path, kind=KIND, config=dict(identity)) if main else contextlib.nullcontext()
    with opened as writer:
        if spread:
            write_parts(tensors, Path(agree(str(writer.path / SHARDS) if writer is not None else "")))
        if writer is not None:
            save_file(held, writer.path / "state.safetensors")
            (writer.path / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")


def load(
    path: Path, *, identity: Mapping[str, Any], likes: Mapping[str, torch.Tensor] | None = None
) -> tuple[Progress, dict[str, torch.Tensor]] | None:
    """Progress and tensors of a checkpoint of the same run; None where there is none.

    Args:
        path: of the artifact.
        identity: of the run.
        likes: see ``likes_of``; tensors that were spread come back laid out like these, others whole.
    """
    from safetensors.torch import load_file

    if not artifacts.is_current(path, kind=KIND, config=dict(identity)):
        return None
    raw = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    tensors = load_file(path / "state.safetensors")
    if (path / SHARDS).is_dir():
        tensors |= read_parts(path / SHARDS, likes or {})
    return Progress(**raw), tensors


def likes_of(
    parameters: Mapping[str, nn.Parameter], optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, torch.Tensor]:
    """For the beginning of each name of ``state_of`` the parameter that its tensors are laid out like."""
    likes: dict[str, torch.Tensor] = {}
    for kind in ("weight", "average"):
        likes |= {f"{kind}/{name}": parameter for name, parameter in parameters.items()}
    for which, optimizer in enumerate(optimizers):
        moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        likes |= {f"optimizer{which}/{number}": parameter for number, parameter in enumerate(moved)}
    return likes


def restore(
    tensors: Mapping[str, torch.Tensor],
    parameters: Mapping[str, nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    rank: int = 0,
) -> dict[str, torch.Tensor]:
    """Put weights, optimiser state and process ``rank``'s random state back; returns the moving average.

    A run may go on with more processes than before; the new ones keep the random state that they have.
    """
    weights = part(tensors, "weight")
    if weights.keys() != parameters.keys():
        raise ArtifactError(
            "the checkpoint belongs to another model",
            seen=f"{len(weights)} trained tensors",
            allowed=f"the {len(parameters)} of this model",
            fix="remove the checkpoint and train from the start",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(part_of(weights[name], parameter))
    for which, optimizer in enumerate(optimizers):
        moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in part(tensors, f"optimizer{which}").items():
            number, key = name.split("/")
            state.setdefault(int(number), {})[key] = part_of(tensor, moved[int(number)])
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    random = part(tensors, f"random{rank}")
    if "cpu" in random:
        torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
    return part(tensors, "average")


def set_aside(work: Path) -> None:
    """Keep what another run left in its working directory as ``<name>.old``, in place of an older one."""
    old = work.with_name(work.name + ".old")
    if old.exists():
        shutil.rmtree(old)
    os.rename(work, old)
    telemetry.log(f"{work} holds no checkpoint of this run: it is kept as {old}")


def part(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The tensors below ``name/``."""
    return {key[len(name) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(name + "/")}
