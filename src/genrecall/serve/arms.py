"""Experiments in the gateway: a user's arms decide what a request leaves open, and every answer is logged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from genrecall.errors import ConfigError
from genrecall.experiment.exposure import Exposure, ExposureLog
from genrecall.serve.config import ServeConfig
from genrecall.serve.schema import Answer, Recommend, Search

FILE = "exposures.jsonl"
CONSOLE = "console"
INTERLEAVED = "interleaved"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An interleaved list: for which layer, and by which channels each of its two arms answers."""

    layer: str
    ways: Mapping[str, tuple[str, ...]]

    @property
    def channels(self) -> list[str]:
        """Of both."""
        return list(dict.fromkeys(name for way in self.ways.values() for name in way))


class Arms:
    """The experiments of one service; without any, nothing is logged.

    Args:
        config: holds the layers, and where the log goes.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._layers = config.experiments
        mixed = [layer.name for layer in self._layers if layer.interleave]
        if len(mixed) > 1:
            raise ConfigError(
                "only one layer can be interleaved at a time",
                seen=", ".join(mixed),
                allowed="one layer with interleave = true",
                fix="end one of them first",
            )
        self._log = ExposureLog(config.state / FILE) if self._layers else None

    def of(self, user_id: str | None) -> dict[str, str]:
        """A user's arm in each layer; those without a name are in none."""
        if user_id is None or self._log is None:
            return {}
        found = {layer.name: layer.arm_of(user_id) for layer in self._layers}
        return {layer: arm for layer, arm in found.items() if arm is not None}

    def draft(self, request: Recommend | Search, arms: dict[str, str]) -> Draft | None:
        """How this user's list is interleaved; None where it is not, or the request says itself who answers."""
        layer = next((one for one in self._layers if one.interleave and one.name in arms), None)
        if layer is None or request.channels is not None:
            return None
        arms[layer.name] = INTERLEAVED
        return Draft(layer=layer.name, ways={name: arm.channels or () for name, arm in layer.arms.items()})

    def applied(self, request: Recommend | Search, arms: dict[str, str]) -> Recommend | Search:
        """The request with what its arms say; what it says itself stands."""
        changes: dict[str, object] = {}
        for layer in self._layers:
            if layer.interleave:
                continue
            arm = layer.arms.get(arms.get(layer.name, ""))
            if arm is not None and arm.channels is not None and request.channels is None:
                changes["channels"] = list(arm.channels)
            if arm is not None and arm.beam is not None and request.beam is None:
                changes["beam"] = arm.beam
        return msgspec.structs.replace(request, **changes) if changes else request

    def explore(self, arms: Mapping[str, str]) -> float:
        """Share of a user's answers that are shown in random order; the first arm that explores says."""
        found = (layer.arms[arms[layer.name]].explore for layer in self._layers if arms.get(layer.name) in layer.arms)
        return next((explore for explore in found if explore), 0.0)

    def exposed(
        self,
        request: Recommend | Search,
        answer: Answer,
        draft: Draft | None,
        teams: list[str],
        propensities: list[float],
    ) -> None:
        """Log what a user of an experiment was answered; what only somebody at the console saw is no exposure."""
        if self._log is None or request.user_id is None or not answer.versions.arms:
            return
        if request.scenario == CONSOLE or request.release is not None:
            return
        self._log.append(
            Exposure(
                time=time.time(),
                user_id=request.user_id,
                request_id=answer.request_id,
                arms=answer.versions.arms,
                items=[item.item_id for item in answer.items],
                total_ms=answer.timing_ms["total"],
                degraded=answer.coverage.degraded,
                filled=answer.coverage.filled,
                k=request.k,
                layer="" if draft is None else draft.layer,
                teams=teams,
                found=[[] if item.fallback else list(item.channels) for item in answer.items],
                propensities=propensities,
            )
        )

    def close(self) -> None:
        """Write what waits."""
        if self._log is not None:
            self._log.close()
