"""One training run: model, optimiser and data on their device, and one optimiser step at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from genrecall import hardware, processes
from genrecall.errors import ConfigError, DependencyError
from genrecall.model.lora import add_lora, is_lora, merge_lora, plain
from genrecall.train.average import Average
from genrecall.train.checkpoint import Progress, random_state
from genrecall.train.config import TrainConfig
from genrecall.train.data import ExampleSource, Plan
from genrecall.train.optimizers import optimizers
from genrecall.train.schedule import rate
from genrecall.train.sharding import on_cpu, rebuilt, shard
from genrecall.train.supervised import SidLearner, Targets

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel


class Run:
    """State of a run that is not in ``Progress``.

    Args:
        model: a HF causal language model; it is moved to the device and trained in place.
        examples: what it learns from.
        targets: codes and validity of target items.
        config: settings.
    """

    def __init__(
        self, model: PreTrainedModel, examples: ExampleSource[Any], targets: Targets, config: TrainConfig
    ) -> None:
        self.config, self.examples, self.targets = config, examples, targets
        self.device = hardware.pick_device(config.device)
        self.accelerator = accelerator(self.device)
        self.device = self.accelerator.device
        self.bfloat16 = config.precision == "bfloat16" or (
            config.precision == "auto" and hardware.has_bf16(self.device)
        )
        vocabulary = examples.prompts.vocabulary
        if config.lora is not None:
            model = add_lora(model, config.lora, np.concatenate(vocabulary.sid_tokens).tolist())
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
            layers = plain(model).get_decoder().layers
            for layer in layers[max(len(layers) - config.stored_layers, 0) :]:
                layer.gradient_checkpointing = False
        self.sharded = config.shard and self.world > 1
        self.model = model if self.sharded else model.to(self.device)  # type: ignore[arg-type]
        learner = SidLearner(
            model,
            vocabulary.level_starts,
            vocabulary.space.codes,
            label_smoothing=config.label_smoothing,
            autocast=self.bfloat16,
            text_weight=config.mixture.text_weight if config.mixture is not None else 0.0,
        )
        if self.sharded:
            shard(learner, model, self.device, bfloat16=self.bfloat16)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizers = optimizers(self.parameters, config)
        self.average = Average(self.parameters, config.ema_decay)
        self.learner = learner if self.world == 1 or self.sharded else self.accelerator.prepare(learner)
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.tokens = 0
        self.rows: Plan
        self.groups: list[np.ndarray] = []

    @property
    def world(self) -> int:
        """Processes that train together."""
        return int(self.accelerator.num_processes)

    @property
    def main(self) -> bool:
        """Whether this process validates and writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of the epoch planned last."""
        return -(-len(self.groups) // self._stride)

    def plan(self, epoch: int) -> None:
        """Lay out an epoch."""
        self.rows, self.groups = self.examples.plan(epoch)

    def step(self, progress: Progress) -> int:
        """One optimiser step on the next batches; returns its number of target items. Moves ``progress``."""
        share = self.groups[progress.batch : progress.batch + self._stride]
        total = int(sum(self.rows.targets[group].sum() for group in share))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(progress.share, self.config)
        self.model.train()
        rank, world = int(self.accelerator.process_index), self.world
        rounds = -(-len(share) // world)
        for number in range(rounds):
            place = number * world + rank
            # Every process does as many passes as the others; one without a batch repeats the first with weight 0.
            weight = 1.0 if place < len(share) else 0.0
            batch = self.examples.collate(self.rows, share[place if weight else 0])
            with self._gradients_stay(number < rounds - 1):
                loss = self.learner(self.targets.inputs(batch, self.device)) * weight
                # Data parallelism averages gradients over processes; we want their sum over all targets.
                (loss * (world / total)).backward()
            self.loss += loss.detach().double()
            self.tokens += batch.tokens.size
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.batch += len(share)
        progress.targets += total
        progress.loss_targets += total
        self.average.update(progress.step)
        return total

    def mean_loss(self, progress: Progress) -> float:
        """Nats an item since the last call, over all processes; starts a new count."""
        loss = self.total_loss() / max(progress.loss_targets, 1)
        self.loss.zero_()
        progress.loss_targets = 0
        if not np.isfinite(loss):
            raise ConfigError(
                "the loss is not a number any more",
                seen=f"{loss} at step {progress.step}",
                allowed="a finite loss",
                fix="lower the learning rate, or train in float32",
            )
        return loss

    def total_loss(self) -> float:
        """Nats since the last call of ``mean_loss``, over all processes; all of them must ask."""
        return float(self.accelerator.reduce(self.loss.clone(), reduction="sum") if self.world > 1 else self.loss)

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()

    def random_states(self) -> list[dict[str, torch.Tensor]]:
        """The random state of every process, in the main one; all of them must ask."""
        if self.world == 1:
            return [random_state()]
        from accelerate.utils import gather_object

        return list(gather_object([random_state()]))

    def kept(self, *, average: bool = True) -> dict[str, torch.Tensor]:
        """Trained weights (their moving average, where there is one), full and in main memory, in the main process.

        Where they are sharded, every process must ask.
        """
        return on_cpu((self.average.tensors if average else {}) or self.parameters, keep=self.main)

    def finished(self, weights: Mapping[str, torch.Tensor]) -> PreTrainedModel:
        """The plain model with these trained weights; in the main process, at the end."""
        if self.sharded:
            return rebuilt(self.model, weights, self.device)
        self.load(weights)
        return merge_lora(self.model).eval()

    @contextmanager
    def under_validation(self) -> Iterator[PreTrainedModel | None]:
        """The plain model to be validated, in evaluation mode; None in all processes but the main one."""
        if self.sharded:
            weights = self.kept()
            yield rebuilt(self.model, weights, self.device) if self.main else None
            return
        with self.average.applied():
            model = self.model.eval()
            # An engine reads plain weights; unmerging in place would not give back the very same frozen weights.
            yield None if not self.main else merge_lora(copy.deepcopy(model)) if is_lora(model) else model

    @contextmanager
    def _gradients_stay(self, stay: bool) -> Iterator[None]:
        """Backward passes in this block leave gradients where they are; a later pass exchanges all of them."""
        if self.sharded:
            cast(Any, self.learner).set_requires_gradient_sync(not stay)
            yield
            return
        with self.accelerator.no_sync(self.learner) if stay and self.world > 1 else nullcontext():
            yield

    def agree(self, value: Any) -> Any:
        """The main process's value, in all processes."""
        if self.world == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put trained weights into the model."""
        with torch.no_grad():
            for name, tensor in weights.items():
                self.parameters[name].copy_(tensor)

    @property
    def _stride(self) -> int:
        return self.config.accumulate * self.world


def accelerator(device: torch.device) -> Accelerator:
    """An Accelerator for this device; accelerate keeps the first one's settings for the process, so they are reset."""
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState
    except ImportError:
        raise DependencyError("accelerate", extra="train", purpose="training") from None
    if PartialState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    if processes.world() > 1:
        processes.leave_at_exit()
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no")
