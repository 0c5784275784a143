"""A ranker's forward pass on a GPU in about eight launches, with its tables and weights laid out for it.

The same network as ``model`` on the same rows; what has no place in the kernels (features of several values, tables
that stay in host memory) is pooled as there, and written into its columns of x_0.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import torch

from genrecall.kernels import rank_network
from genrecall.kernels.crossed_rows import Codes, crossed_rows
from genrecall.kernels.history_sums import Past, history_sums
from genrecall.kernels.rank_network import Dense, Joint, Lookups, Numbers, Pairs, Pooling, Told
from genrecall.rank.embedding import Tables
from genrecall.rank.features import Features, Rows
from genrecall.rank.inputs import ItemSide, padded, sent_together
from genrecall.rank.model import RankNetwork
from genrecall.rank.schema import Behaviour, Bucketed, Crossed, Schema, Tabled

_MOST_ROWS = 2**31
_MOST_WEIGHTS = 2048
"""Of an attention's products: more do not stay in registers."""


class Fused:
    """One ranker's network, ready to run.

    Args:
        features: of the catalog.
        network: on the device; its weights do not change any more.
        tables: packed (``Tables.flat``).
        items: with ``pairs``, on the device.
    """

    @staticmethod
    def fits(network: RankNetwork, tables: Tables) -> bool:
        """Whether its kernels' tiles have room on a multiprocessor, and rows are numbers of 32 bits."""
        config, schema = network.config, network.schema
        pooled = [(schema.width_of(behaviour.like), config.attention) for behaviour in schema.behaviours]
        needed = rank_network.shared_bytes(
            _columns(schema, config.joint)[1],
            config.cross_rank,
            rank_network.padded(max(config.deep, default=1)),
            pooled,
        )
        return (
            needed <= rank_network.room(network.head.weight)
            and all(wide * asks <= _MOST_WEIGHTS for wide, asks in pooled)
            and all(len(tables.of(name)) < _MOST_ROWS for name in tables.names)
        )

    def __init__(self, features: Features, network: RankNetwork, tables: Tables, items: ItemSide) -> None:
        assert items.pairs is not None, "a GPU computes what concerns pairs"
        assert tables.flat is not None, "tables were packed"
        self.network, self.tables, self.items, self.pairs = network, tables, items, items.pairs
        self.schema, self.device = schema, device = features.schema, tables.flat.device
        self.columns, self.width = _columns(schema, network.config.joint)
        held = tables.starts
        of_items = [name for name in items.names if name in held]
        self.of_requests = [
            f.name for f in schema.tabled if f.name in held and not schema.of_item(f) and _has_one_row(f, schema)
        ]
        crosses = [name for name in self.pairs.names if name in held]
        looked = [*of_items, *self.of_requests, *crosses]
        self.given = [f.name for f in schema.tabled if f.name not in looked]
        places = [(held[name], schema.width_of(name), self.columns[name]) for name in looked]
        self._crosses, self._hosted = crosses, [name for name in self.given if name in self.pairs.names]
        chosen = torch.tensor([items.names.index(name) for name in of_items], dtype=torch.int64, device=device)
        self.lookups = Lookups(
            flat=tables.flat,
            places=torch.tensor(places, dtype=torch.int64, device=device).reshape(-1, 3),
            widest=max((width for _, width, _ in places), default=1),
            item_rows=items.rows[chosen].int(),
            codes=self._codes(crosses),
            buckets=self._buckets(crosses),
        )
        self._far = (self._codes(self._hosted), self._buckets(self._hosted))
        self.numbers = self._numbers() if schema.told else None
        self.joint = self._joint() if schema.state or schema.vectors else None
        self.pooling = {b.name: self._pooling(b) for b in schema.behaviours if b.like in held}
        self.dense = _dense(network)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # what was laid out here is read in the tables' own stream

    def send(self, rows: Rows) -> dict[str, torch.Tensor]:
        """What ``__call__`` takes, on its way to the device."""
        return sent_together(self._arrays(rows), self.device)

    def __call__(self, found: dict[str, torch.Tensor]) -> torch.Tensor:
        """float32 (2, P): logits and probabilities; launched, not waited for."""
        pairs = Pairs(owner=found["owner"], items=found["items"])
        told = self.told(found, pairs)
        x = torch.empty(len(pairs.items), self.width, dtype=torch.float32, device=self.device)
        rank_network.fill(x, pairs, told, self.lookups, self.numbers, self.joint)
        hosted = self._hosted_rows(found, pairs)
        for name in self.given:
            self._give(x, name, found, hosted, pairs)
        for behaviour in self.schema.behaviours:
            self._pool(x, behaviour, found, pairs)
        return rank_network.logits(x, self.dense)

    def told(self, found: dict[str, torch.Tensor], pairs: Pairs) -> Told:
        """What the requests say, the first two launches."""
        past = Past(items=found["past"], offsets=found["past begins"])
        state = None
        if self.schema.state:
            own = self.network.get_submodule("state")
            moments = (own.get_buffer("mean"), own.get_buffer("spread"))
            weights = (own.get_parameter("weight"), own.get_parameter("bias"))
            state = rank_network.brought(found["state"], *moments, *weights)
        return Told(
            rows=found["request rows"],
            codes=Codes(folded=found["folded"], there=found["there"]),
            evidence=found["told"],
            sums=history_sums(self.pairs.matrices, self.pairs.readings, past, pairs.owner, pairs.items),
            state=state,
        )

    def _arrays(self, rows: Rows) -> dict[str, np.ndarray]:
        """All that is sent, by name."""
        assert rows.past is not None, "numbers were left to the device"
        requests = len(rows.past)
        stacked = [rows.bags[name].values for name in self.of_requests]
        arrays: dict[str, np.ndarray] = {
            "owner": rows.owner, "items": rows.items, "told": rows.told, "past": rows.past.values,
            "past begins": rows.past.offsets,
            "request rows": np.stack(stacked).astype(np.int32) if stacked else np.zeros((0, requests), np.int32),
        }  # fmt: skip
        for kind, names in (("", self._crosses), ("far ", self._hosted)):
            folded, there = np.zeros((len(names), requests), np.uint64), np.zeros((len(names), requests), bool)
            for place, name in enumerate(names):
                folded[place], there[place] = rows.halves[name].folded, rows.halves[name].there
            arrays[f"{kind}folded"], arrays[f"{kind}there"] = folded.view(np.int64), there
        if self.schema.state:
            assert rows.state is not None, "the schema reads the generator's state"
            arrays["state"] = rows.state
        for behaviour in self.schema.behaviours:
            bag = rows.bags[behaviour.name]
            events, there = padded(bag)
            arrays[f"{behaviour.name}.rows"], arrays[f"{behaviour.name}.there"] = events.astype(np.int32), there
            arrays[f"{behaviour.name}.count"] = bag.lengths.astype(np.int32)
        for name in self.given:
            if name in rows.bags:
                bag = rows.bags[name]
                arrays[f"{name}.rows"], arrays[f"{name}.begins"] = bag.values, bag.offsets[:-1]
        return arrays

    def _hosted_rows(self, found: dict[str, torch.Tensor], pairs: Pairs) -> dict[str, torch.Tensor]:
        """Rows of crosses whose tables stay in host memory."""
        if not self._hosted:
            return {}
        codes, buckets = self._far
        requests = Codes(folded=found["far folded"], there=found["far there"])
        return dict(zip(self._hosted, crossed_rows(requests, codes, buckets, pairs.owner, pairs.items), strict=True))

    def _give(
        self, x: torch.Tensor, name: str, found: dict[str, torch.Tensor], hosted: dict[str, torch.Tensor], pairs: Pairs
    ) -> None:
        """Pool a feature as ``model`` does."""
        feature, column = self.schema.feature(name), self.columns[name]
        if name in hosted:
            own = self.tables.pool(name, hosted[name], None)
        elif name in self.items.names:
            own = self.tables.pool(name, self.items.rows[self.items.names.index(name)][pairs.items.long()], None)
        else:
            own = self.tables.pool(name, found[f"{name}.rows"], found[f"{name}.begins"])
        if not self.schema.of_item(feature):
            own = own[pairs.owner]
        x[:, column : column + own.shape[1]] = own

    def _pool(self, x: torch.Tensor, behaviour: Behaviour, found: dict[str, torch.Tensor], pairs: Pairs) -> None:
        rows, count = found[f"{behaviour.name}.rows"], found[f"{behaviour.name}.count"]
        if behaviour.name in self.pooling:
            assert self.tables.flat is not None
            rank_network.pool(x, pairs, self.tables.flat, rows, count, self.pooling[behaviour.name])
            return
        keys, wide = self.tables.look(behaviour.like, rows.long()), self.schema.width_of(behaviour.like)
        query = x[:, self.columns[behaviour.like] :][:, :wide]
        own = self.network.pooled(behaviour.name, query, keys, found[f"{behaviour.name}.there"], pairs.owner)
        x[:, self.columns[behaviour.name] :][:, :wide] = own

    def _codes(self, names: list[str]) -> Codes:
        """Of the items, for some of the crosses."""
        codes, many = self.pairs.codes, self.items.rows.shape[1]
        if codes is None:
            return Codes(
                folded=torch.zeros(0, many, dtype=torch.int64, device=self.device),
                there=torch.zeros(0, many, dtype=torch.bool, device=self.device),
            )
        if names == list(self.pairs.names):
            return codes
        places = [self.pairs.names.index(name) for name in names]
        return Codes(folded=codes.folded[places], there=codes.there[places])

    def _buckets(self, names: list[str]) -> torch.Tensor:
        return self.pairs.buckets[[self.pairs.names.index(name) for name in names]]

    def _numbers(self) -> Numbers:
        own, pairs, evidence = self.network.get_submodule("told"), self.pairs, len(self.schema.evidence)
        place = torch.argsort(pairs.order).int()  # of what stands at each place after evidence, logged ones, sums
        first = evidence + pairs.logged.shape[1]
        return Numbers(
            column=self.columns[".told"],
            mean=own.get_buffer("mean"),
            spread=own.get_buffer("spread"),
            evidence=evidence,
            logged=pairs.logged,
            logged_at=place[evidence:first].contiguous(),
            summed_at=place[first:].contiguous(),
            floors=pairs.floors,
        )

    def _joint(self) -> Joint:
        weight = self.network.get_submodule("vector").get_parameter("weight").detach() if self.schema.vectors else None
        return Joint(
            state_column=self.columns.get(".state", -1),
            column=self.columns.get(".vector", -1),
            product_column=self.columns.get(".product", -1),
            vectors=self.items.vectors if self.schema.vectors else None,
            weight=weight,
        )

    def _pooling(self, behaviour: Behaviour) -> Pooling:
        wide = self.schema.width_of(behaviour.like)
        place = {
            "begin": self.tables.starts[behaviour.like], "width": wide, "query": self.columns[behaviour.like],
            "column": self.columns[behaviour.name],
        }  # fmt: skip
        if self.network.config.pooling == "mean":
            return Pooling(**place, inner=None, bias=None, outer=None, shift=0.0)
        own = self.network.get_submodule(f"attention.{behaviour.name}")
        of_q, of_k, of_both, of_less = own.get_parameter("inner.weight").detach().chunk(4, dim=1)
        return Pooling(
            **place,
            inner=torch.stack([of_q + of_less, of_k - of_less, of_both]).contiguous(),
            bias=own.get_parameter("inner.bias").detach(),
            outer=own.get_parameter("outer.weight").detach()[0].contiguous(),
            shift=float(own.get_parameter("outer.bias").detach()),
        )


def _columns(schema: Schema, joint: int) -> tuple[dict[str, int], int]:
    """Where each part of x_0 begins, and its width; parts that are no features begin with a dot, as no feature does."""
    parts = [(f.name, f.width) for f in schema.tabled]
    parts += [(b.name, schema.width_of(b.like)) for b in schema.behaviours]
    parts += [(".told", schema.told)] if schema.told else []
    parts += [(".state", joint)] if schema.state else []
    parts += [(".vector", joint)] if schema.vectors else []
    parts += [(".product", joint)] if schema.vectors and schema.state else []
    ends = list(accumulate((width for _, width in parts), initial=0))
    return {name: begin for (name, _), begin in zip(parts, ends[:-1], strict=True)}, ends[-1]


def _has_one_row(feature: Tabled, schema: Schema) -> bool:
    """Whether every request has one row of it: no part can have several values."""
    bucketed = {f.name for f in schema.tabled if isinstance(f, Bucketed)}
    parts = feature.of if isinstance(feature, Crossed) else (feature.of,)
    return all(part in bucketed or schema.column(part).split is None for part in parts)


def _dense(network: RankNetwork) -> Dense:
    weights = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    config, head = network.config, weights["head.weight"][0]
    width = len(head) - (config.deep[-1] if config.deep else 0)
    crosses = range(config.cross_layers)
    rank = config.cross_rank

    def stacked(name: str, *shape: int) -> torch.Tensor:
        return (
            torch.stack([weights[f"cross.{layer}.{name}"] for layer in crosses]) if crosses else head.new_empty(shape)
        )

    hidden = rank_network.padded(max(config.deep, default=1))
    layers = [_grown(weights[f"deep.{layer}.weight"], hidden) for layer in range(len(config.deep))]
    biases = [_grown(weights[f"deep.{layer}.bias"][:, None], hidden)[:, 0] for layer in range(len(config.deep))]
    slope, shift = weights["calibration"].tolist()
    return Dense(
        down=stacked("down", 0, rank, width), up=stacked("up", 0, width, rank), cross_bias=stacked("bias", 0, width),
        first=layers[0].contiguous() if layers else None,
        rest=torch.stack([_grown(layer.t(), hidden).t().contiguous() for layer in layers[1:]])
        if layers[1:] else head.new_empty(0, hidden, hidden),
        deep_bias=torch.stack(biases) if biases else head.new_empty(0, hidden),
        head=head[:width].contiguous(), deep_head=_grown(head[width:, None], hidden)[:, 0].contiguous(),
        bias=float(weights["head.bias"]), slope=slope, shift=shift,
    )  # fmt: skip


def _grown(matrix: torch.Tensor, rows: int) -> torch.Tensor:
    """With rows of zeros behind."""
    return torch.cat([matrix, matrix.new_zeros(rows - len(matrix), matrix.shape[1])])
