"""A rollout against a service that behaves as told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genrecall.errors import ConfigError
from genrecall.recipes.rollout import RolloutConfig, compared, require_in_service, roll_out

FINE = {"answers": 500, "p99": 40.0, "degraded_share": 0.0, "fill": 1.0}
CONFIG = RolloutConfig(steps=(5, 50), watch_s=0.0)


class Service:
    """The admin listener of a service with two bundles, ``old`` and ``new``."""

    def __init__(self, **new: Any) -> None:
        self.roles: dict[str, str | None] = {"active": "old", "candidate": None, "previous": None}
        self.traffic = {"old": dict(FINE), "new": {**FINE, **new}}
        self.calls: list[str] = []
        self.restarts = 0
        self.before_activate: Callable[[], None] = lambda: None

    def __call__(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        action = path.rpartition("/")[2]
        roles = self.roles
        if method == "POST":
            self.calls.append(action if action != "canary" else f"canary {body['percent']:g}")  # type: ignore[index]
        if action == "stage":
            roles["candidate"] = "new"
        elif action == "activate":
            self.before_activate()
            roles |= {"previous": roles["active"], "active": roles["candidate"], "candidate": None}
        elif action == "rollback" and roles["candidate"] is not None:
            roles["candidate"] = None
        elif action == "rollback":
            assert roles["previous"] is not None, "there is nothing to roll back to"
            roles |= {"active": roles["previous"], "previous": None}
        told = {
            role: None if digest is None else {"digest": digest, "restarts": self.restarts * (digest == "new")}
            for role, digest in roles.items()
        }
        return {**told, "traffic": self.traffic}

    def roll(self, config: RolloutConfig = CONFIG) -> str:
        return roll_out(self, Path("b"), "new", "old", config, sleep=lambda _: None).outcome


def test_a_good_bundle_goes_through_its_steps() -> None:
    service = Service()
    assert service.roll() == "kept"
    assert service.calls == ["stage", "canary 5", "canary 50", "activate"]
    assert service.roles["active"] == "new"
    assert service.roll() == "was active"


@pytest.mark.parametrize(
    "worse",
    [{"p99": 90.0}, {"degraded_share": 0.1}, {"fill": 0.9}, {"answers": 3}],
    ids=lambda w: next(iter(w)),
)
def test_a_worse_bundle_is_taken_out_at_its_first_canary(worse: dict[str, float]) -> None:
    service = Service(**worse)
    assert service.roll() == "rolled back"
    assert service.calls == ["stage", "canary 5", "rollback"]
    assert service.roles == {"active": "old", "candidate": None, "previous": None}


def test_a_bundle_that_fails_once_active_goes_back() -> None:
    service = Service()
    service.before_activate = lambda: service.traffic["new"].update(degraded_share=0.5)
    assert service.roll() == "rolled back"
    assert service.calls[-2:] == ["activate", "rollback"]
    assert service.roles["active"] == "old"


def test_a_lost_worker_is_reason_enough() -> None:
    service = Service()
    service.restarts = 1
    assert service.roll() == "rolled back"


def test_an_interrupted_rollout_leaves_no_canary_behind() -> None:
    service = Service()

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        roll_out(service, Path("b"), "new", "old", RolloutConfig(watch_s=60.0), sleep=interrupted)
    assert service.roles["candidate"] is None
    assert service.roles["active"] == "old"


def test_an_operator_who_rolled_back_is_not_rolled_back() -> None:
    service = Service()
    service.roles["previous"] = "older"

    def operator(_: float) -> None:
        service("POST", "/admin/releases/rollback", {})

    found = roll_out(service, Path("b"), "new", "old", RolloutConfig(watch_s=60.0), sleep=operator)
    assert found.watches[-1].worse == ["it is not candidate any more"]
    assert service.roles["active"] == "old"
    assert service.roles["previous"] == "older"


def test_another_bundle_in_service_is_refused_before_training() -> None:
    service = Service()
    require_in_service(service, ["old"])
    require_in_service(service, ["older", "old"])
    with pytest.raises(ConfigError, match="another bundle"):
        require_in_service(service, ["new"])


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_a_watch_ends(seconds: float) -> None:
    with pytest.raises(ConfigError, match="watched"):
        RolloutConfig(watch_s=seconds)


def test_another_bundle_in_service_is_refused() -> None:
    service = Service()
    service.roles["active"] = "somebody's"
    with pytest.raises(ConfigError, match="another bundle"):
        service.roll()
    assert service.calls == []


def test_fast_bundles_are_not_judged_by_ratios() -> None:
    assert compared({**FINE, "p99": 2.0}, {**FINE, "p99": 6.0}, CONFIG) == []
    assert compared({}, FINE, CONFIG) == []
    for steps in ((), (50, 5), (0,), (101,)):
        with pytest.raises(ConfigError):
            RolloutConfig(steps=steps)
