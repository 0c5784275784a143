"""One bundle in service: its contents, a lane for each channel, and its fusion."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrecall.bundle.contents import Contents
from genrecall.errors import ConfigError
from genrecall.experiment.assignment import Layer
from genrecall.recall.channel import Barred, Channel, Query
from genrecall.recall.fusion import Fusion
from genrecall.recall.fusion.rule import FITTED
from genrecall.recall.lexical import LexicalChannel
from genrecall.recall.tokens import item_texts
from genrecall.serve.config import ServeConfig
from genrecall.serve.default import FALLBACK, Filled, default_channels, fill, fusion_of
from genrecall.serve.deltas import DeltaStore
from genrecall.serve.lanes import Asked, Lane, RankAsked, RankLane
from genrecall.serve.plugins import plugins
from genrecall.serve.problems import Problem
from genrecall.serve.scenario import FALLBACKS, Scenario
from genrecall.serve.schema import Filter
from genrecall.serve.shared import Seat, Tally
from genrecall.serve.worker.remote import ClassicProcess
from genrecall.serve.worker.replicas import Replicas
from genrecall.telemetry import log

_HERE = (FALLBACK, "popularity_segment", "two_tower")
"""Channels that the gateway holds itself: what fills lists up, and vectors that spread them; a process has the rest."""
_LEXICAL_ITEMS = 500_000
_REMEMBERED_FILTERS = 64
FilterKey = tuple[str, tuple[str, ...], float | None, float | None]
_SEARCH = ("generative", "lexical", "dense")


@dataclass(eq=False, kw_only=True)
class Release:
    """What answers requests; every response comes from exactly one of these.

    Attributes:
        contents: the bundle without its models.
        lanes: by channel; the fallback has one, too, for requests that name it.
        worker: the generative lane; None where only classic channels are served.
        classic: the process behind the classic lanes; None where they answer in this one.
        fusion: for requests that do not choose channels.
        inflight: requests that are being answered from it, by all gateways.
        ranks: who orders what was fused; None where the bundle has no ranker, or no worker runs it.
        deltas: of the ranker's tables, oldest first.
        seat: of one of several gateways, and where this release's processes are found.
        gone: ``delisted`` as a set.
    """

    contents: Contents
    lanes: Mapping[str, Lane]
    worker: Replicas | None
    weights: Mapping[str, float]
    classic: ClassicProcess | None = None
    inflight: Tally = field(default_factory=Tally)
    ranks: RankLane | None = None
    deltas: Sequence[str] = ()
    seat: Seat | None = None
    _fusions: dict[tuple[tuple[str, ...], int], Fusion] = field(default_factory=dict)
    _barred: dict[tuple[FilterKey, ...], Barred] = field(default_factory=dict)
    gone: frozenset[int] = frozenset()
    _delisted: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))

    @classmethod
    async def open(cls, path: Path, config: ServeConfig, seat: Seat | None = None) -> Release:
        """Check a bundle, start its worker (or connect to the keeper's) and warm everything; nothing answers yet."""
        contents = await asyncio.to_thread(Contents.open, path, _HERE)
        path = contents.path.resolve()
        classic = ClassicProcess(path, seat)
        worker = None if config.worker is None else Replicas(path, config.worker, seat)
        starting = [classic.start()] if worker is None else [classic.start(), worker.start()]
        failed = [found for found in await asyncio.gather(*starting, return_exceptions=True) if found is not None]
        if failed:
            await asyncio.gather(classic.close(), *([] if worker is None else [worker.close()]))
            raise failed[0]
        lanes: dict[str, Lane] = {**classic.lanes()}
        if worker is not None:
            lanes = {"generative": worker, **lanes}
        release = cls(
            contents=contents, lanes=lanes, worker=worker, weights=config.weights, classic=classic, seat=seat,
            inflight=Tally(None if seat is None else seat.directory / "inflight", seat),
        )  # fmt: skip
        try:
            release.require(config.scenarios, config.experiments, config.weights)
        except ConfigError:
            await release.close()
            raise
        if contents.ranker is not None and worker is not None:
            release.ranks, release.deltas = worker, DeltaStore(config.state).of(contents.ranker)
        await release.warm()
        return release

    async def warm(self) -> None:
        """Ask every lane once, and read what is made on first use, so that no request pays for it."""
        contents = self.contents
        history = np.arange(min(5, len(contents.items)), dtype=np.int32)
        text = contents.items.titles[0] or None
        for query in (Query(history=history), Query(history=history, text=text)):
            asked = Asked(query=query, k=min(100, len(contents.items)), beam=self.beam, trace=True, budget_s=60.0)
            await asyncio.gather(*(lane.ask(asked) for lane in self.lanes.values()), return_exceptions=True)
        if self.ranks is not None:
            told = RankAsked(
                query=Query(history=history), user_id=None, items=history, deltas=self.deltas, budget_s=60.0
            )
            await asyncio.gather(self.ranks.rank(told), return_exceptions=True)
        await asyncio.to_thread(lambda: (contents.items.index, contents.items.titles, self.fallback(Query(), 1)))

    async def close(self) -> None:
        """Stop its lanes."""
        for lane in self.lanes.values():
            await lane.close()
        if self.classic is not None:
            await self.classic.close()

    @property
    def digest(self) -> str:
        """Of the bundle."""
        return self.contents.digest

    @property
    def beam(self) -> int:
        """W where a request names none."""
        configured = self.worker.config.beam if self.worker is not None else None
        return configured or self.contents.beam

    def chosen(self, asked: Sequence[str] | None, *, search: bool) -> tuple[str, ...]:
        """The channels that a request is answered by."""
        if asked is not None:
            unknown = [name for name in asked if name not in self.lanes]
            if unknown:
                raise Problem("unknown_channel", f"no channel {unknown[0]}; there are {', '.join(self.lanes)}")
            return tuple(dict.fromkeys(asked))
        if search:
            found = tuple(name for name in _SEARCH if name in self.lanes and self._reads(name))
            if not found:
                raise Problem("unknown_channel", "no channel of this bundle searches")
            return found
        return default_channels(self.contents, self.lanes)

    def require(
        self, scenarios: Mapping[str, Scenario], experiments: Sequence[Layer] = (), weights: Iterable[str] = ()
    ) -> None:
        """Refuse settings that this bundle cannot keep.

        Raises:
            ConfigError: one names a channel that is not there, or a fusion that the bundle was not fitted with.
        """
        self._require_channels("--weight", weights)
        for layer in experiments:
            for name, arm in layer.arms.items():
                self._require_channels(f"the arm {name} of {layer.name}", arm.channels or ())
        shipped = None if self.contents.fusion is None else self.contents.fusion.config.method
        for name, rules in scenarios.items():
            named = {*(rules.channels or ()), *rules.weights, *rules.floors, *rules.budgets_ms}
            self._require_channels(f"the scenario {name}", named)
            if rules.method in FITTED and rules.method != shipped:
                raise ConfigError(
                    f"the scenario {name} asks for a fusion that this bundle was not fitted with",
                    seen=f"method {rules.method}; the bundle ships {shipped or 'none'}",
                    allowed="rrf, scores, quota, or what the bundle ships",
                    fix="fit it with `genrecall fuse`, or choose another method",
                )

    def _require_channels(self, what: str, named: Iterable[str]) -> None:
        if missing := sorted(set(named) - set(self.lanes)):
            raise ConfigError(
                f"{what} names channels that are not there",
                seen=", ".join(missing),
                allowed=", ".join(self.lanes),
                fix=f"export the bundle with them, install the plug-in, or take them out of {what}",
            )

    def fusion(self, channels: tuple[str, ...], rules: Scenario | None = None) -> Fusion:
        """How these channels' lists are joined; ``rules`` are those of the configuration, which live as long as it."""
        key = channels, id(rules)
        if key not in self._fusions:
            self._fusions[key] = fusion_of(self.contents, channels, self.weights, rules)
        return self._fusions[key]

    def fallback(self, query: Query, k: int, chain: Sequence[str] = FALLBACKS) -> list[Filled]:
        """Popular items that the query does not exclude; from memory, so that it cannot be late."""
        return fill(self.contents, query, k, chain)

    def set_delisted(self, item_ids: set[str]) -> None:
        """Items that must not come from now on."""
        index = self.contents.items.index
        self.gone = frozenset(index[i] for i in item_ids if i in index)
        self._delisted = np.array(sorted(self.gone), dtype=np.int32)

    @property
    def delisted(self) -> np.ndarray:
        """int32 item indices that must not come."""
        return self._delisted

    def indices(self, item_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """int32 indices of the known of these items, and int64 their places in the list."""
        index = self.contents.items.index
        found = np.array([index.get(item, -1) for item in item_ids], dtype=np.int32)
        places = np.flatnonzero(found >= 0)
        return found[places], places

    def barred(self, filters: Sequence[Filter]) -> Barred | None:
        """What the filters leave out; None without any."""
        if not filters:
            return None
        key = tuple(_key(wanted) for wanted in filters)
        found = self._barred.get(key)
        if found is None:
            found = Barred(np.logical_and.reduce([self._mask(f) for f in filters]))
            if len(self._barred) >= _REMEMBERED_FILTERS:
                self._barred.pop(next(iter(self._barred)))
            self._barred[key] = found
        return found

    def _reads(self, name: str) -> bool:
        if name == "generative":
            return self.worker is not None and self.worker.facts is not None and self.worker.facts.reads_search
        return name != "dense"  # text vectors need the encoder, which is no part of a bundle

    def _mask(self, wanted: Filter) -> np.ndarray:
        table = self.contents.items.table
        if wanted.column not in table.column_names:
            raise Problem("unknown_column", f"no column {wanted.column}; there are {', '.join(table.column_names)}")
        column, kind = table[wanted.column], table.schema.field(wanted.column).type
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        bounds = wanted.at_least is not None or wanted.at_most is not None
        if (bounds and not numeric) or not (bounds or wanted.any_of) or not (numeric or pa.types.is_string(kind)):
            raise Problem(
                "unusable_filter",
                f"column {wanted.column} is of type {kind}: any_of filters text and numbers, bounds filter numbers",
            )
        mask = np.ones(len(self.contents.items), dtype=bool)
        if wanted.any_of:
            try:  # in the column's type: a price of 9.5 is 9.50, too
                values = pc.cast(pa.array(wanted.any_of, pa.string()), kind)
            except pa.ArrowInvalid:
                raise Problem(
                    "unusable_filter", f"column {wanted.column} is of type {kind}: any_of names others"
                ) from None
            mask &= _plain(pc.is_in(column, value_set=values))
        if wanted.at_least is not None:
            mask &= _plain(pc.greater_equal(column, wanted.at_least))
        if wanted.at_most is not None:
            mask &= _plain(pc.less_equal(column, wanted.at_most))
        return mask


def _key(wanted: Filter) -> FilterKey:
    return wanted.column, tuple(sorted(wanted.any_of)), wanted.at_least, wanted.at_most


def _plain(mask: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(mask, False).to_numpy(), dtype=bool)


def channels_of(contents: Contents) -> dict[str, Channel]:
    """The bundle's classic channels, one that searches, and those of installed plug-ins."""
    channels: dict[str, Channel] = dict(contents.channels)
    if "lexical" not in channels and len(contents.items) <= _LEXICAL_ITEMS:
        log("channel lexical: indexing the items' texts (the bundle ships no index)")
        channels["lexical"] = LexicalChannel.fit(item_texts(contents.items), contents.channels[FALLBACK].counts)
    return {**channels, **plugins(contents, ["generative", *channels])}
