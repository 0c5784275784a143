"""A bundle in memory: everything that answers "which items next?"."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from genrecall.artifacts import Artifact, open_artifact
from genrecall.bundle import channels as classic
from genrecall.bundle.channels import ClassicChannel
from genrecall.bundle.parts import KIND, RANKER, parts_of
from genrecall.catalog.items import Items
from genrecall.engine.config import Budgets, EngineConfig, Parallel
from genrecall.engine.host.request import Answer
from genrecall.errors import CapacityError
from genrecall.rank.score import Ranker
from genrecall.recall.channel import Candidates, Query
from genrecall.recall.ensemble import EnsembleChannel
from genrecall.recall.generative import GenerativeChannel, GenerativeConfig
from genrecall.recall.generator import open_generator
from genrecall.sid.space import SidSpace
from genrecall.sid.table import FILE, SidTable

_NOTHING = np.empty(0, np.int32)


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One recommended item; ``score`` is the sum of log-probabilities, comparable within one answer only."""

    item_id: str
    title: str
    sid: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Recommendations:
    """An answer.

    Attributes:
        items: best first.
        channel: who answered: ``generative``, or ``popularity`` where nothing is known of the user.
        notes: what the reader should know: cold start, unknown items, a shorter list than asked for.
        answer: the engine's own answer, with its beams where an explanation was asked for.
    """

    items: tuple[Recommendation, ...]
    channel: str
    notes: tuple[str, ...] = ()
    answer: Answer | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Recommender:
    """What a bundle holds, ready to answer."""

    items: Items
    table: SidTable
    generative: GenerativeChannel | EnsembleChannel
    channels: Mapping[str, ClassicChannel]
    split: Mapping[str, Any]
    digest: str
    catalog_digest: str
    remarks: tuple[str, ...] = ()
    ranker: Ranker | None = None
    searches: bool = False
    """Whether its generators were trained on searches."""

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        beam: int | None = None,
        parallel: Parallel | None = None,
        max_rows: int | None = None,
        budgets: Budgets | None = None,
        only: Collection[str] | None = None,
    ) -> Recommender:
        """Open a bundle, verify every checksum, build tries, engines and channels.

        Args:
            path: of the bundle.
            device, dtype, max_rows, budgets: see ``EngineConfig``.
            beam: W; None is the bundle's.
            parallel: over how many devices its models are spread; None: each is on one.
            only: classic channels that are wanted, popularity among them; None: all.
        """
        bundle = open_artifact(path, kind=KIND)
        config = bundle.manifest.config
        items = Items(table=pq.read_table(bundle.file("items.parquet")))
        channels = classic.load(bundle.path / "channels", only)
        counts, search = channels["popularity"].counts, GenerativeConfig(**config["generative"])
        search = search if beam is None else replace(search, beam=beam)
        members = []
        for place, (codes, normalise) in enumerate(zip(config["spaces"], config["normalise"], strict=True)):
            sid, model = parts_of(place)
            table = SidTable.read(bundle.file(f"{sid}/{FILE}"), SidSpace(tuple(codes)), bundle.manifest.parents[sid])
            settings = EngineConfig(
                normalise=normalise,
                device=device,
                dtype=dtype,
                parallel=parallel or Parallel(),
                max_rows=max_rows,
                budgets=budgets or Budgets(),
            )
            engine, prompts = open_generator(bundle.path / model, table, items.titles, settings)
            members.append(GenerativeChannel(engine, prompts, table, counts, search))
        return cls(
            items=items,
            table=members[0].table,
            generative=members[0] if len(members) == 1 else EnsembleChannel(members),
            channels=channels,
            split=config["split"],
            digest=bundle.digest,
            catalog_digest=bundle.manifest.parents["catalog"],
            remarks=tuple(config["remarks"]),
            ranker=_ranker(bundle, device),
            searches=bool(bundle.manifest.facts.get("searches", False)),
        )

    def recommend(
        self,
        history: Sequence[str] = (),
        *,
        times: np.ndarray | None = None,
        profile: Mapping[str, str] | None = None,
        search: str | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        explain: bool = False,
    ) -> Recommendations:
        """Recommend the next items, or those that a search asks for.

        Args:
            history: item ids, oldest first; ids that the bundle does not know are left out and noted.
            times: int64 (n,) seconds of the history's events, where known.
            profile: profile columns by name.
            search: a search text; the history, if any, stands before it.
            k: how many items.
            exclude_seen: leave out the items of the history.
            explain: keep the beams of every level in ``answer``.

        Raises:
            CapacityError: ``k`` is below 1 or larger than the catalog.
        """
        self._require_k(k)
        known = np.array([i for i, item in enumerate(history) if item in self.items.index], dtype=np.int64)
        indices = np.array([self.items.index[history[i]] for i in known], dtype=np.int32)
        text = search if search and self.reads_search(search) else None
        query = Query(
            history=indices,
            times=None if times is None else times[known],
            exclude=np.unique(indices) if exclude_seen else _NOTHING,
            profile=profile or {},
            text=text,
        )
        notes = []
        if search and text is None:
            notes.append("the search was left out: this bundle's model reads none, or knows nothing of this one")
        if len(known) < len(history):
            notes.append(f"{len(history) - len(known)} items of the history are not in this bundle and were left out")
        if len(indices) == 0 and text is None and not self._reads(query.profile):
            notes.append("cold start: nothing is known of this user, so the popular items answer")
            found = self.channels["popularity"].recall([query], k)
            return self._pack(found, "popularity", k, notes, None)
        if len(indices) == 0 and text is None:
            notes.append("cold start: no history, so the answer rests on the profile alone")
        if isinstance(self.generative, EnsembleChannel):
            found, first = self.generative.recall([query], k), None
            if explain:
                first = self.generative.members[0].answer([query], k, trace=True)[0]
                notes.append(f"beams and SIDs are those of the first of {len(self.generative.members)} generators")
            return self._pack(found, "generative", k, notes, first)
        dropped = self.generative.prompts.dropped
        answer = self.generative.answer([query], k, trace=explain)[0]
        if self.generative.prompts.dropped > dropped:
            lost = self.generative.prompts.dropped - dropped
            notes.append(
                f"the prompt was longer than the model's window: the oldest {lost} history items were left out"
            )
        chosen, scores = self.generative.expand(answer, query, k)
        found = Candidates(items=np.array([chosen], np.int32), scores=np.array([scores], np.float32))
        return self._pack(found, "generative", k, notes, answer)

    def _reads(self, profile: Mapping[str, str]) -> bool:
        """Whether the prompt shows anything of this profile."""
        prompts = self.generative.members[0].prompts
        return bool(profile) and prompts.head(profile) != prompts.head()

    def reads_search(self, text: str) -> bool:
        """Whether the model was trained on searches and its prompt shows anything of this one."""
        prompts = self.generative.members[0].prompts
        return self.searches and prompts.encode(_NOTHING, {}, None, text) != prompts.encode(_NOTHING)

    def _require_k(self, k: int) -> None:
        if not 1 <= k <= len(self.items):
            raise CapacityError(
                "more items are asked for than there are" if k > 0 else "no items are asked for",
                seen=f"k = {k}",
                allowed=f"1 to {len(self.items)}, the size of the catalog",
                fix="choose another -k",
            )

    def _pack(
        self, found: Candidates, channel: str, k: int, notes: list[str], answer: Answer | None
    ) -> Recommendations:
        listed = [(int(i), float(s)) for i, s in zip(found.items[0], found.scores[0], strict=True) if i >= 0]
        if len(listed) < k:
            notes.append(f"only {len(listed)} eligible items were found, {k} were asked for")
        items = tuple(
            Recommendation(
                item_id=self.items.ids[i], title=self.items.titles[i], sid=self.table.written(i), score=round(s, 4)
            )
            for i, s in listed
        )
        return Recommendations(items=items, channel=channel, notes=tuple(notes), answer=answer)


def _ranker(bundle: Artifact, device: str) -> Ranker | None:
    digest = bundle.manifest.parents.get(RANKER)
    return None if digest is None else Ranker.load(bundle.path / RANKER, device=device, digest=digest)
