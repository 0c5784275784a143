"""The online path: state → admission → channels in parallel, each with its budget → fusion → ranker → fallback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from genrecall.experiment.exploring import explored
from genrecall.recall.channel import Query
from genrecall.recall.fusion.rule import Explained as Fused
from genrecall.serve import answering, arranging, ranking, recalling
from genrecall.serve.admission import NARROWEST
from genrecall.serve.answering import Outcome
from genrecall.serve.arms import Arms
from genrecall.serve.config import ServeConfig
from genrecall.serve.default import Filled, depth_of
from genrecall.serve.explain import explained
from genrecall.serve.lanes import Asked, Listed
from genrecall.serve.limiter import Limiter
from genrecall.serve.metrics import Metrics
from genrecall.serve.planning import Plan, Planner, is_ranked
from genrecall.serve.problems import Problem
from genrecall.serve.ranking import Order
from genrecall.serve.recent import Explanations, Remembered, Traffic
from genrecall.serve.release import Release
from genrecall.serve.releases import Releases
from genrecall.serve.schema import Answer, ChannelCoverage, Coverage, Rank, Ranked, RankedItem, Recommend, Search
from genrecall.serve.shared import Relay
from genrecall.serve.state.ingest import Ingest
from genrecall.serve.state.state import State
from genrecall.serve.tiers import Tiers
from genrecall.serve.tracing import Tracing
from genrecall.serve.turns import Turns
from genrecall.serve.worker.supervisor import Supervisor

_NARROWED = "narrowed: generative"


class Service:
    """Answers requests; knows nothing of HTTP.

    Args:
        config: settings.
        releases: bundles in service.
        state: what is known of users.
        ingest: its writer.
        metrics: where it is measured.

    Attributes:
        fellows: asks the other gateways; None where there are none.
        gateways: whom the keeper keeps alive.
    """

    def __init__(self, config: ServeConfig, releases: Releases, state: State, ingest: Ingest, metrics: Metrics) -> None:
        self.config, self.releases, self.state, self.ingest, self.metrics = config, releases, state, ingest, metrics
        self.explanations, self.traffic = Explanations(config.explained), Traffic()
        self.limiter, self.tiers = Limiter(config.max_inflight, config.deadline_s), Tiers()
        self._planner = Planner(config, state, self.limiter)
        self.arms, self._turns = Arms(config), Turns()
        self.tracing: Tracing | None = None
        self.fellows: Relay | None = None
        self.gateways: dict[str, Supervisor] = {}
        self.inflight = 0

    async def answer(self, request: Recommend | Search, request_id: str) -> Answer:
        """Answer one request by its deadline, with whatever is there by then."""
        begun = time.perf_counter()
        arms = self.arms.of(request.user_id)
        request = self.arms.applied(request, arms)
        if request.release is None:
            release, role = self.releases.pick(request.user_id or request_id)
        else:
            release, role = self.releases.named(request.release), request.release
        draft = self.arms.draft(request, arms)
        release.inflight.add(1)
        self.inflight += 1
        try:
            plan = await self._planner.plan(request, release, begun, draft)
            planned = time.perf_counter()
            outcomes = await self._recall(plan, request, release)
            recalled = time.perf_counter()
            if self.limiter.is_refusing:  # else whoever is nearly done goes before whoever has just come
                await self._turns.take()
            orders = await self._orders(request, release, plan, outcomes, begun)
            rank_s = max(order.took_s for order in orders.values())
            answer, teams, chances = self._pack(
                request, request_id, release, role, plan, outcomes, orders, self.arms.explore(arms)
            )
            answer.versions.arms.update(arms)
        finally:
            release.inflight.add(-1)
            self.inflight -= 1
        done = time.perf_counter()
        marks = {
            "state": planned - begun,
            "channels": recalled - planned,
            "rank": rank_s,
            "fusion": done - recalled - rank_s,
            "total": done - begun,
        }
        answer.timing_ms.update({stage: round(seconds * 1e3, 3) for stage, seconds in marks.items()})
        self.limiter.answered(
            done - recalled - rank_s + planned - begun + recalling.classic_s(outcomes), self.inflight + 1
        )
        self.arms.exposed(request, answer, draft, teams, chances)
        if self.tracing is not None:
            self.tracing.answered(answer, request.k)
        lists: dict[str, Listed] = {
            name: outcome.listed for name, outcome in outcomes.items() if outcome.listed is not None
        }
        history = len(plan.query.history)
        self.explanations.keep(Remembered(request=request, answer=answer, lists=lists, history=history))
        # The answer leaves in this turn of the loop; what is only counted of it, in the next.
        asyncio.get_running_loop().call_soon(self._count, request, answer, lists, marks, history)
        return answer

    async def rank(self, request: Rank, request_id: str) -> Ranked:
        """Order items that the caller has.

        Raises:
            Problem: the bundle has no ranker, or it does not answer in time.
        """
        begun = time.perf_counter()
        release, role = self.releases.pick(request.user_id or request_id)
        if release.ranks is None:
            raise Problem("conflict", "the active bundle has no ranker")
        release.inflight.add(1)
        try:
            query = await self._planner.query(request, release)
            items, places = release.indices(list(dict.fromkeys(request.items)))
            left_s = ranking.left_of(self._planner.deadline_s(request), begun)
            found: list[RankedItem] = []
            tables = len(release.deltas)
            if len(items):
                found, tables = await ranking.scored(
                    release.ranks, release.deltas, query, request.user_id, items, release.contents.items.ids, left_s
                )
        finally:
            release.inflight.add(-1)
        known, took = set(places.tolist()), time.perf_counter() - begun
        self.metrics.stage.labels("rank").observe(took)
        distinct = enumerate(dict.fromkeys(request.items))
        return Ranked(
            request_id=request_id,
            items=found,
            unknown=[item for place, item in distinct if place not in known],
            versions=answering.versions_of(release, role, release.chosen(None, search=False), tables=tables),
            timing_ms={"total": round(took * 1e3, 3)},
        )

    async def forget(self, user_id: str) -> int:
        """Erase what is known of a user, here and in the engines; events erased."""
        erased = await asyncio.to_thread(self.state.forget, user_id)
        self.explanations.forget(user_id)
        if self.fellows is not None:
            await self.fellows("forget", {"user_id": user_id})
        await self.releases.purge(user_id)
        return erased

    async def close(self) -> None:
        """Let go of all that it holds."""
        await self.ingest.close()
        self.arms.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)
        await self.releases.close()
        self.state.close()

    async def all_traffic(self) -> Traffic:
        """The last minute of all gateways, as a copy: summing it up takes long, and is for other threads."""
        if self.fellows is None:
            return self.traffic.copied()
        others = await self.fellows("traffic", {})
        return await asyncio.to_thread(self.traffic.copied().joined, others.values())

    async def explain(self, request_id: str) -> bytes:
        """Why an answer was as it was, as JSON; also where another gateway gave it.

        Raises:
            Problem: it is not remembered, or its bundle is gone.
        """
        try:
            return self.explained(request_id)
        except Problem:
            others = {} if self.fellows is None else await self.fellows("explain", {"request_id": request_id})
            found = next((told for told in others.values() if told), None)
            if found is None:
                raise
            return found

    def explained(self, request_id: str) -> bytes:
        """As ``explain``, of this process's own answers."""
        remembered = self.explanations.find(request_id)
        if remembered is None:
            raise Problem("not_found", "no such answer is remembered; only the newest are")
        release = self.releases.of(remembered.answer.versions.bundle)
        return msgspec.json.encode(explained(remembered, release, self._planner.rules_of(remembered.request)))

    async def _recall(self, plan: Plan, request: Recommend | Search, release: Release) -> dict[str, Outcome]:
        """Ask all channels at once; nobody is waited for beyond the budget."""
        wanted = plan.rules.depth(request.k, request.spread or plan.rules.spread)
        depth = depth_of(request.k, len(release.contents.items)) if wanted == request.k else wanted
        asked = {
            name: Asked(
                query=plan.query, k=depth, beam=plan.beam, trace=request.explain and name == "generative",
                budget_s=plan.rules.budget_s(name, plan.budget_s), narrowest=min(plan.beam, max(request.k, NARROWEST)),
                user=request.user_id,
            )
            for name in plan.channels
            if not (name == "generative" and plan.beam == 0 and plan.beam_asked)
        }  # fmt: skip
        found = await recalling.recalled(release.lanes, asked, self.limiter)
        if len(found) < len(plan.channels):
            found["generative"] = Outcome(coverage=ChannelCoverage("shed", 0, 0.0, "no room for its beams"))
        return found

    async def _orders(
        self,
        request: Recommend | Search,
        release: Release,
        plan: Plan,
        outcomes: Mapping[str, Outcome],
        begun: float,
    ) -> dict[str, Order]:
        """The candidates of each way of answering: one, or the two of an interleaved answer."""
        if plan.draft is None:
            return {"": await self._order(request, release, plan, plan.channels, outcomes, begun)}
        ways = plan.draft.ways
        found = await asyncio.gather(
            *(self._order(request, release, plan, channels, outcomes, begun) for channels in ways.values())
        )
        return dict(zip(ways, found, strict=True))

    async def _order(
        self,
        request: Recommend | Search,
        release: Release,
        plan: Plan,
        channels: tuple[str, ...],
        outcomes: Mapping[str, Outcome],
        begun: float,
    ) -> Order:
        """Fused candidates of some channels, in the ranker's order where the bundle has one."""
        rules, ranked = plan.rules, is_ranked(request, release)
        fetch = max(rules.depth(request.k, request.spread or rules.spread), ranking.DEPTH if ranked else 0)
        own = {name: outcome for name, outcome in outcomes.items() if name in channels}
        found = answering.fuse(release, channels, own, plan.query, fetch, rules)
        if not ranked:
            return Order(found=self._kept(release, found))
        assert release.ranks is not None
        left_s = ranking.left_of(self._planner.deadline_s(request), begun)
        asked = time.perf_counter()
        order = await ranking.ordered(release.ranks, release.deltas, found, plan.query, request.user_id, left_s)
        return replace(order, found=self._kept(release, order.found), took_s=time.perf_counter() - asked)

    def _pack(
        self,
        request: Recommend | Search,
        request_id: str,
        release: Release,
        role: str,
        plan: Plan,
        outcomes: Mapping[str, Outcome],
        orders: Mapping[str, Order],
        explore: float,
    ) -> tuple[Answer, list[str], list[float]]:
        """The answer; of an interleaved one each item's team; of an exploring arm how likely each item's place was."""
        rules = plan.rules
        lists = {
            way: arranging.arranged(release, order.found, rules, request.spread, request.k)
            for way, order in orders.items()
        }
        teams: list[str] = []
        if plan.draft is None:
            (found,) = lists.values()
        else:
            found, teams = arranging.drafted(lists, request.k, f"{plan.draft.layer} {request_id}")
        chances: list[float] = []
        if explore:
            found, chances = explored(found, explore, f"explore {request_id}")
        missing = request.k - len(found)
        filled: Sequence[Filled] = []
        if missing > 0:
            taken = np.array([entry.item for entry in found], dtype=np.int32)
            exclude = np.concatenate((plan.query.exclude, release.delisted, taken))
            asked = Query(exclude=exclude, barred=plan.query.barred, profile=plan.query.profile)
            filled = release.fallback(asked, missing, rules.fallback)
        failed = [
            f"{o.coverage.outcome}: {name}" for name, o in outcomes.items() if o.coverage.outcome not in ("ok", "empty")
        ]
        reasons = [*plan.reasons, *(reason for reason in failed if reason not in plan.reasons)]
        reasons += dict.fromkeys(order.reason for order in orders.values() if order.reason)
        generative = outcomes.get("generative")
        ran = generative.listed if generative is not None else None
        if ran is not None and ran.narrowed and _NARROWED not in reasons:
            reasons.append(_NARROWED)
        coverage = Coverage(
            channels={name: outcome.coverage for name, outcome in outcomes.items()},
            degraded=bool(reasons),
            reasons=reasons,
            beam=0 if ran is None else min(plan.beam, ran.beam or plan.beam),
            beam_asked=plan.beam_asked,
            filled=len(filled),
        )
        answer = Answer(
            request_id=request_id,
            items=answering.items_of(release, found, filled),
            coverage=coverage,
            versions=answering.versions_of(release, role, plan.channels, rules, next(iter(orders.values())).version),
            timing_ms={},
        )
        chances = [*chances, *[1.0] * len(filled)] if explore else []
        return answer, [*teams, *[""] * len(filled)] if plan.draft is not None else [], chances

    def _kept(self, release: Release, found: Sequence[Fused]) -> list[Fused]:
        """Without what was delisted while the channels were at work."""
        return [entry for entry in found if entry.item not in release.gone]

    def _count(
        self,
        request: Recommend | Search,
        answer: Answer,
        lists: Mapping[str, Listed],
        marks: Mapping[str, float],
        history: int,
    ) -> None:
        tier = self.tiers.of(request, history)
        self.traffic.see(answer, request.k, tier)
        self.metrics.invalid.inc(sum(listed.invalid for listed in lists.values()))
        self.metrics.answered(answer, request.k, tier, marks)
