"""The network around a bottleneck of codes: an encoder and a decoder that start as principal axes.

    E(x) = W x + b + MLP(x),    D(ẑ) = Wᵀ ẑ + c + MLP(ẑ),    minimise |x − D(ẑ)|²/D + the bottleneck's own loss

Source: Hinton and Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks". We deviate: the MLPs'
last layers start at zero and W as the leading principal axes, so that step 0 is already the best linear autoencoder and
training improves on it: tens of epochs, not thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from genrecall.processes import share, summed, together, world
from genrecall.sid.normaliser import Normaliser
from genrecall.telemetry import Bar


class Schedule(Protocol):
    """The settings of training; see the quantisers' configurations."""

    @property
    def batch(self) -> int: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def weight_decay(self) -> float: ...  # noqa: D102
    def steps(self, items: int) -> int: ...  # noqa: D102


class Bottleneck(Protocol):
    """What stands between encoder and decoder."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """What it learns by gradients, beside encoder and decoder."""
        ...

    def __call__(self, z: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantised latents (n, E), with gradient to ``z``, and its own loss, a mean over items.

        ``rows``: int64, the items of the whole batch, of which ``z`` has those of this process's share.
        """
        ...


class Skip(nn.Module):
    """``x W + b + MLP(x)``; the MLP's last layer starts at zero, so the map starts linear."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(widths[0], widths[-1])
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def start(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        """Start as the linear map ``weight`` (out, in), whatever the global random state."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2:
                    noise = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
                    parameter.copy_(noise * (2**0.5 if name.startswith("mlp") else 1))
                else:
                    parameter.zero_()
            self.linear.weight.copy_(weight)
            last = self.mlp[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in) to (n, out)."""
        return self.linear(x) + self.mlp(x)


class Autoencoder:
    """Encoder (n, D) → (n, E) and decoder back, on one device."""

    def __init__(self, *, width: int, hidden: tuple[int, ...], latent: int, device: torch.device) -> None:
        widths = (width, *hidden, latent)
        self.encoder, self.decoder = Skip(widths).to(device), Skip(widths[::-1]).to(device)

    def start(self, axes: torch.Tensor, generator: torch.Generator, *, scale: torch.Tensor | None = None) -> None:
        """Start as projection on ``axes`` (E, D), divided by ``scale`` (E,), and back."""
        scale = torch.ones(len(axes), device=axes.device) if scale is None else scale
        self.encoder.start(axes / scale[:, None], generator)
        self.decoder.start((axes * scale[:, None]).T, generator)

    def train(
        self, vectors: np.ndarray, normaliser: Normaliser, schedule: Schedule, bottleneck: Bottleneck, *,
        generator: torch.Generator, bar: Bar | None = None,
    ) -> None:  # fmt: skip
        """AdamW with a cosine down to zero over shuffled batches of (I, D) vectors, which may be a memory map.

        Under torchrun all processes must call it; each takes its share of every batch, and gradients are added up.
        """
        items = len(vectors)
        batch = min(schedule.batch, items)
        per_epoch = items // batch
        steps = schedule.steps(items)
        weights = [*self.encoder.parameters(), *self.decoder.parameters(), *bottleneck.parameters()]
        optimiser = torch.optim.AdamW(weights, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        order = torch.empty(0, dtype=torch.int64)
        for step in range(steps):
            if step % per_epoch == 0:
                order = torch.randperm(items, generator=generator)
            at = (step % per_epoch) * batch
            rows = order[at : at + batch].sort().values  # ascending: a memory map is then read forwards
            x = normaliser.rows(vectors[rows[share()].numpy()])
            quantised, loss = bottleneck(self.encoder(x), rows)
            reconstruction = F.mse_loss(self.decoder(quantised), x)
            optimiser.zero_grad()
            ((reconstruction + loss) * (len(x) / batch)).backward()
            _add_gradients(weights)
            optimiser.step()
            cosine.step()
            if bar is not None:
                bar.advance(reconstruction=float(reconstruction.detach()))

    @torch.no_grad()
    def latents(self, vectors: np.ndarray, normaliser: Normaliser) -> torch.Tensor:
        """(n, E) of raw vectors (n, D), a bounded piece at a time; under torchrun each process encodes its share."""
        own = torch.cat([self.encoder(rows) for rows in normaliser.chunks(vectors[share()])])
        return together(own, len(vectors))

    def state(self) -> dict[str, torch.Tensor]:
        """Weights, on the device."""
        parts = (("encoder", self.encoder), ("decoder", self.decoder))
        return {f"{part}.{name}": t.detach() for part, module in parts for name, t in module.state_dict().items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Weights that ``state`` gave, among any others."""
        for head, module in (("encoder.", self.encoder), ("decoder.", self.decoder)):
            module.load_state_dict({k.removeprefix(head): v for k, v in state.items() if k.startswith(head)})


def _add_gradients(weights: Sequence[nn.Parameter]) -> None:
    """Of all processes, in one sum; a weight that had no part in this one's loss counts as zeros."""
    if world() == 1:
        return
    parts = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    total = summed(torch.cat([part.flatten() for part in parts]))
    for weight, part in zip(weights, total.split([weight.numel() for weight in weights]), strict=True):
        weight.grad = part.view_as(weight)


def principal_axes(rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, D) leading eigenvectors of the covariance of centred (n, D) rows, and (count,) their variances.

    The largest entry of each axis is positive, because signs are arbitrary. With fewer dimensions than ``count`` the
    rest are zeros.
    """
    covariance = (rows.T @ rows / len(rows)).double().cpu()
    values, vectors = torch.linalg.eigh(covariance)
    axes, spread = vectors.flip(1)[:, :count].T, values.flip(0)[:count].clamp(min=0)
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    missing = count - len(axes)
    axes, spread = F.pad(axes, (0, 0, 0, missing)), F.pad(spread, (0, missing))
    return axes.float().to(rows.device), spread.float().to(rows.device)
