"""The ranking network: embeddings, evidence and the language model's state, crossed and scored in one forward.

    x_{l+1} = x_0 ∘ (V_l (U_l x_l) + b_l) + x_l         z = mean_j a(q, k_j) k_j         logit = w · [x_L; MLP(x_0)] + b

DCN-v2 with low-rank crosses (Wang et al., WWW 2021) and the target attention of DIN (Zhou et al., KDD 2018).
Deviations: attention weights are averaged, not summed, over the history, so that its length does not set the scale; and
x_0 holds the generator's own reading of the same request (its state, and what it thinks of the item). Exact order of
everything: docs/concepts/ranking.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from genrecall.errors import ConfigError
from genrecall.rank.embedding import Tables
from genrecall.rank.inputs import Inputs
from genrecall.rank.schema import Schema, Tabled


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape of the network.

    Attributes:
        pooling: of behaviours: ``attention`` asks each event how it fits the candidate (DIN), ``mean`` does not.
        cross_layers, cross_rank: of DCN-v2; 0 layers leave it out.
        attention: hidden units of the attention.
        deep: widths of the MLP's layers.
        joint: width that state and vectors are brought to.
    """

    pooling: Literal["attention", "mean"] = "attention"
    cross_layers: int = 2
    cross_rank: int = 16
    attention: int = 16
    deep: tuple[int, ...] = (64, 32)
    joint: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "deep", tuple(self.deep))
        if (
            self.pooling not in ("attention", "mean")
            or min(self.cross_layers, 0) < 0
            or min(self.cross_rank, self.attention, self.joint, *self.deep, 1) < 1
        ):
            raise ConfigError(
                "a ranking network cannot have this shape",
                seen=str(self),
                allowed="pooling attention or mean, no negative number of layers, widths of at least 1",
                fix="correct NetworkConfig",
            )


class RankNetwork(nn.Module):
    """Logits of candidates.

    Args:
        schema: what is read.
        config: shape.
        dropout: of x_0 while training.
    """

    def __init__(self, schema: Schema, config: NetworkConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.schema, self.config, self.dropout = schema, config, dropout
        tabled: dict[str, Tabled] = {feature.name: feature for feature in schema.tabled}
        self._item_side = [feature.name for feature in schema.tabled if schema.of_item(feature)]
        behaviours = {feature.name: tabled[feature.like].width for feature in schema.behaviours}
        width = sum(feature.width for feature in schema.tabled) + sum(behaviours.values())
        self._told = slice(width, width + schema.told)  # of x_0
        width += schema.told
        if behaviours and config.pooling == "attention":
            self.attention = nn.ModuleDict(
                {name: _Attention(own, config.attention) for name, own in behaviours.items()}
            )
        if schema.told:
            self.told = _Moments(schema.told)
        if schema.state:
            self.state = _State(schema.state, config.joint)
            width += config.joint
        self._later = [*range(self._told.start, width)]  # of x_0: what a warm-up does not tell
        if schema.vectors:
            self.vector = nn.Linear(schema.vectors, config.joint, bias=False)
            width += config.joint
            if schema.state:
                self._later += range(width, width + config.joint)
                width += config.joint
        if config.cross_layers:
            self.cross = nn.ModuleList(_Cross(width, config.cross_rank) for _ in range(config.cross_layers))
        if config.deep:
            sizes = (width, *config.deep)
            self.deep = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(width + (config.deep[-1] if config.deep else 0), 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))

    def forward(self, inputs: Inputs, tables: Tables) -> torch.Tensor:
        """float32 (P,)."""
        x = self.inputs(inputs, tables)
        if self.training and self.dropout:
            x = F.dropout(x, self.dropout)
        crossed = x
        for layer in self.cross if self.config.cross_layers else ():
            crossed = layer(x, crossed)
        if not self.config.deep:
            return self.head(crossed)[:, 0]
        hidden = x
        for layer in self.deep:
            hidden = F.relu(layer(hidden))
        return self.head(torch.cat([crossed, hidden], 1))[:, 0]

    def inputs(self, inputs: Inputs, tables: Tables) -> torch.Tensor:
        """x_0, float32 (P, F)."""
        pooled = {}
        for feature in self.schema.tabled:
            own = tables.pool(feature.name, *inputs.bags[feature.name])
            pooled[feature.name] = own if feature.name in self._item_side else own[inputs.owner]
        parts = list(pooled.values())
        for behaviour in self.schema.behaviours:
            rows, there = inputs.past[behaviour.name]
            keys = tables.look(behaviour.like, rows)
            parts.append(self.pooled(behaviour.name, pooled[behaviour.like], keys, there, inputs.owner))
        if self.schema.told:
            parts.append(self.told(inputs.told))
        state = None
        if self.schema.state:
            assert inputs.state is not None, "the schema reads the generator's state"
            state = self.state(inputs.state)[inputs.owner]
            parts.append(state)
        if self.schema.vectors:
            assert inputs.vectors is not None, "the schema reads the items' vectors"
            vector = self.vector(inputs.vectors)
            parts.append(vector)
            if state is not None:
                parts.append(state * vector)
        return torch.cat(parts, 1)

    def pooled(
        self, behaviour: str, query: torch.Tensor, keys: torch.Tensor, there: torch.Tensor, owner: torch.Tensor
    ) -> torch.Tensor:
        """z, float32 (P, w), of the candidates' own rows (P, w), and histories (R, S, w) of which ``there`` (R, S)."""
        if self.config.pooling == "attention":
            found: torch.Tensor = self.attention[behaviour](query, keys, there, owner)
            return found
        return _mean(keys, there)[owner]

    def unlearn(self) -> None:
        """After a warm-up, which tells neither evidence, numbers nor states: let the logit depend on neither yet."""
        columns = self._later
        first = [layer.get_parameter("down") for layer in self.cross] if self.config.cross_layers else []
        first += [self.deep[0].get_parameter("weight")] if self.config.deep else []
        with torch.no_grad():
            for weight in (*first, self.head.weight):
                weight[:, columns] = 0

    def begin(self, told: torch.Tensor, warm: float) -> None:
        """Let the logit be ``warm`` times what it is, plus ``told`` (F + N,) times standardised numbers."""
        with torch.no_grad():
            self.head.weight.mul_(warm)
            self.head.bias.mul_(warm)
            self.head.weight[0, self._told] = told.to(self.head.weight)

    def probability(self, logits: torch.Tensor) -> torch.Tensor:
        """Calibrated probability of the candidates' being taken."""
        slope, shift = self.get_buffer("calibration")
        return torch.sigmoid(slope * logits + shift)


class _Moments(nn.Module):
    """Standardises; what is not known becomes the mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.nan_to_num((values - self.get_buffer("mean")) / self.get_buffer("spread"), nan=0.0)


class _State(_Moments):
    """The generator's state, standardised and brought to width d."""

    def __init__(self, width: int, joint: int) -> None:
        super().__init__(width)
        self.weight = nn.Parameter(torch.randn(joint, width) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(joint))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return F.linear(super().forward(values), self.weight, self.bias)


class _Cross(nn.Module):
    """One layer of DCN-v2; it begins as the identity."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, width) * width**-0.5)
        self.up = nn.Parameter(torch.zeros(width, rank))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, first: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return first * F.linear(F.linear(x, self.down), self.up, self.bias) + x


class _Attention(nn.Module):
    """DIN's activation unit over [q; k; q∘k; q−k]; the linear parts in q and in k alone are not repeated by pair."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(4 * width, hidden)
        self.outer = nn.Linear(hidden, 1)
        nn.init.ones_(self.outer.bias)

    def forward(
        self, query: torch.Tensor, keys: torch.Tensor, there: torch.Tensor, owner: torch.Tensor
    ) -> torch.Tensor:
        """(P, w) of candidates (P, w), histories (R, S, w) and which of their events are there (R, S)."""
        of_q, of_k, of_both, of_less = self.inner.weight.chunk(4, dim=1)
        past = keys[owner]
        hidden = F.linear(query, of_q + of_less, self.inner.bias)[:, None] + F.linear(keys, of_k - of_less)[owner]
        hidden = hidden + F.linear(query[:, None] * past, of_both)
        weights = self.outer(F.relu(hidden))[..., 0] * there[owner]
        count = there.sum(1).clamp(min=1)[owner]
        return torch.bmm(weights[:, None], past)[:, 0] / count[:, None]


def _mean(keys: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    return (keys * there[..., None]).sum(1) / there.sum(1, keepdim=True).clamp(min=1)
