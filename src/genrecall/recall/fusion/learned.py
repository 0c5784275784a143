"""A small scorer of candidates, learned listwise.

    value(j) = mean_m [ a_m · x_j + b_m · tanh(W_m x_j + c_m) ],    loss = −ln softmax_{j ∈ pool}(value)_target + λ |θ|²

ListNet with one relevant item (Cao, Qin, Liu, Tsai & Li, "Learning to rank: from pairwise approach to listwise
approach", ICML 2007), by L-BFGS. Deviations: a linear part beside the hidden units, several members from different
seeds, and far candidates are sampled: of those behind the nearest by reciprocal rank some are drawn, and count for the
others through the logarithm of the sampling rate (Bengio & Senécal, "Quick training of probabilistic neural nets by
importance sampling", AISTATS 2003). Without hidden units this is multinomial logistic regression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from genrecall.catalog.histories import offsets_of
from genrecall.hardware import pick_device
from genrecall.recall.fusion.calibration import Calibration
from genrecall.recall.fusion.features import features
from genrecall.recall.fusion.pool import Pool
from genrecall.recall.fusion.weights import reciprocal_ranks

if TYPE_CHECKING:
    import torch

_NEAR, _FAR, _CONSTANT = 40, 40, 10.0
_CONSTANT_FEATURE = 1e-6


@dataclass(frozen=True, kw_only=True)
class LearnedConfig:
    """Settings of the fit.

    Attributes:
        hidden: units; 0 is a linear model.
        members: models that are averaged.
        decay: λ.
        steps: of L-BFGS, at most.
        seed: of weights and sampling.
    """

    hidden: int = 8
    members: int = 6
    decay: float = 1e-3
    steps: int = 60
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Scorer:
    """Fitted parameters of M members over F features with H hidden units, for standardised features.

    Attributes:
        mean, spread: float64 (F,) of the features in the fit.
        linear: float64 (M, F).
        inner, bias, outer: float64 (M, F, H), (M, H), (M, H).
    """

    mean: np.ndarray
    spread: np.ndarray
    linear: np.ndarray
    inner: np.ndarray
    bias: np.ndarray
    outer: np.ndarray

    def values(self, features: np.ndarray) -> np.ndarray:
        """float64 (P,) of features float32 (P, F)."""
        # In float64, so that a batch answers as its rows alone; what is unknown is taken for the mean.
        standard = np.nan_to_num((features - self.mean) / self.spread, nan=0.0)
        linear, inner, outer = self._joined
        return standard @ linear + np.tanh(standard @ inner + self.bias.ravel()) @ outer

    @cached_property
    def _joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean of the members as one model: linear (F,), inner (F, M·H), outer (M·H,)."""
        inner = np.ascontiguousarray(self.inner.transpose(1, 0, 2)).reshape(self.inner.shape[1], -1)
        return self.linear.mean(0), inner, self.outer.ravel() / len(self.outer)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """The scorer whose ``state()`` this was."""
        return cls(**{name: np.asarray(state[name], dtype=np.float64) for name in cls.__dataclass_fields__})


def fit_scorer(
    pool: Pool,
    calibrations: Sequence[Calibration],
    lengths: np.ndarray,
    mean_length: float,
    goals: np.ndarray,
    config: LearnedConfig,
    device: str = "auto",
    facts: np.ndarray | None = None,
) -> Scorer:
    """Learn from R requests whose targets ``goals`` int64 (R,) are among the pool's candidates.

    ``device`` is where the models are fitted; the other arguments are those of ``features``.
    """
    kept, offset = _thinned(pool, goals, config.seed)
    rows, target = pool.rows[kept], np.searchsorted(kept, goals)
    known = features(pool, calibrations, lengths, mean_length, kept, facts)
    mean, spread = _moments(known)
    standard = np.nan_to_num((known - mean) / spread, nan=0.0).astype(np.float32)
    on = pick_device(device)
    seeds = range(config.seed, config.seed + config.members)
    members = [_fit(standard, offset, rows, target, config, seed, on) for seed in seeds]
    linear, inner, bias, outer = (np.stack(part).astype(np.float64) for part in zip(*members, strict=True))
    return Scorer(mean=mean, spread=spread, linear=linear, inner=inner, bias=bias, outer=outer)


def _moments(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 (F,) mean and standard deviation of what is not NaN; deviation 1 for features that do not vary."""
    told = np.maximum((~np.isnan(known)).sum(0), 1)
    mean = np.nansum(known, axis=0, dtype=np.float64) / told
    spread = np.sqrt(np.nansum((known - mean) ** 2, axis=0) / told)
    spread[spread < _CONSTANT_FEATURE] = 1.0
    return mean, spread


def _thinned(pool: Pool, goals: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions that are trained on, ascending, and float32 logarithms of what each stands for."""
    near = reciprocal_ranks(pool, _CONSTANT).sum(axis=1)
    near[goals] = np.inf
    column = _column(np.lexsort((pool.tie, -near, pool.rows)), pool)
    draw = np.where(column < _NEAR, -1.0, np.random.default_rng(seed).random(len(column)))
    kept = np.flatnonzero(_column(np.lexsort((draw, pool.rows)), pool) < _NEAR + _FAR)
    behind = np.maximum(np.diff(pool.offsets) - _NEAR, 0)[pool.rows[kept]]
    stands_for = np.where(column[kept] < _NEAR, 1.0, np.maximum(behind / _FAR, 1.0))
    return kept, np.log(stands_for).astype(np.float32)


def _column(order: np.ndarray, pool: Pool) -> np.ndarray:
    """int64 (P,) the place of each candidate in its request, when ``order`` sorts them."""
    column = np.empty(len(order), dtype=np.int64)
    column[order] = np.arange(len(order)) - offsets_of(np.diff(pool.offsets))[pool.rows]
    return column


def _fit(
    standard: np.ndarray,
    offset: np.ndarray,
    rows: np.ndarray,
    target: np.ndarray,
    config: LearnedConfig,
    seed: int,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One member: linear (F,), inner (F, H), bias (H,), outer (H,)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    features, hidden, requests = standard.shape[1], config.hidden, len(target)

    def start(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) / max(shape[0], 1) ** 0.5).to(device).requires_grad_()

    linear, bias = (torch.zeros(size, device=device, requires_grad=True) for size in (features, hidden))
    inner, outer = start(features, hidden), start(hidden)
    parameters = [linear, inner, bias, outer]
    # Requests side by side, with empty places: sums along a row have one order, scattered ones on a GPU have none.
    lengths = np.bincount(rows, minlength=requests)
    begins = offsets_of(lengths)[:-1]
    column = np.arange(len(rows)) - begins[rows]
    known = torch.zeros(requests, int(lengths.max()), features, device=device)
    extra = torch.full(known.shape[:2], -torch.inf, device=device)
    place, there = torch.from_numpy(rows).to(device), torch.from_numpy(column).to(device)
    known[place, there] = torch.from_numpy(standard).to(device)
    extra[place, there] = torch.from_numpy(offset).to(device)
    goal = torch.from_numpy(target - begins).to(device)[:, None]

    def loss() -> torch.Tensor:
        values = known @ linear + torch.tanh(known @ inner + bias) @ outer + extra
        penalty = sum((parameter**2).sum() for parameter in parameters)
        return (torch.logsumexp(values, 1) - values.gather(1, goal)[:, 0]).mean() + config.decay * penalty

    optimizer = torch.optim.LBFGS(parameters, max_iter=config.steps, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    found = [parameter.detach().cpu().numpy() for parameter in parameters]
    return found[0], found[1], found[2], found[3]
