"""`genrecall ab`: what experiments say, and whether the statistics can be believed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genrecall.cli.options import AsJson, Device, Redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genrecall.serve.state.state import State

app = typer.Typer(help="A/B tests.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A/B tests."""


@app.command()
def report(
    experiments: Annotated[Path, typer.Argument(help="The TOML file that the service ran with.")],
    state: Annotated[Path, typer.Option("--state", help="Of that service: its exposures and events.")],
    redis: Redis = None,
    window_hours: Annotated[float, typer.Option(min=0, help="An event so long after an answer counts.")] = 24.0,
    before_days: Annotated[float, typer.Option(min=0, help="What CUPED looks back at.")] = 14.0,
    planned: Annotated[int, typer.Option(min=1, help="Users at which the sequential interval is tightest.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Sample ratio, differences with CUPED, intervals of one and of many looks, guardrails; preferences of interleaved
    layers; what each channel found alone, and what came of it.

    Example: genrecall ab report experiments.toml --state runs/shop/state
    """
    from genrecall.experiment.assignment import read_layers
    from genrecall.experiment.channels import by_channel
    from genrecall.experiment.channels import to_markdown as channels_page
    from genrecall.experiment.exposure import read_exposures
    from genrecall.experiment.interleaving import interleaved_report
    from genrecall.experiment.interleaving import to_markdown as interleaved_page
    from genrecall.experiment.report import ReportConfig, to_markdown
    from genrecall.experiment.report import report as made
    from genrecall.serve.arms import FILE

    config = ReportConfig(window_s=window_hours * 3600, before_s=before_days * 86_400, planned=planned)
    layers, users = read_layers(experiments), _opened(state, redis)
    found = []
    for layer in layers:
        exposures = read_exposures(state / FILE)
        if layer.interleave:
            found.append(
                interleaved_report(
                    layer.name, list(layer.arms), exposures, _rewards(users), window_s=config.window_s, planned=planned
                )
            )
        else:
            found.append(made(layer, exposures, _rewards(users), config))
    channels = by_channel(read_exposures(state / FILE), _rewards(users), config.window_s)
    users.close()
    if as_json:
        print(json.dumps({"layers": found, "channels": channels}, indent=2))
        return
    for one in found:
        print(interleaved_page(one) if one.get("interleaved") else to_markdown(one))
    print(channels_page(channels))


@app.command()
def ope(
    bundle: Annotated[Path, typer.Argument(help="Whose answers are evaluated; nobody was shown them.")],
    state: Annotated[Path, typer.Option("--state", help="Of the service that explored: its exposures and events.")],
    redis: Redis = None,
    window_hours: Annotated[float, typer.Option(min=0, help="An event so long after an answer is its reward.")] = 24.0,
    clip: Annotated[float, typer.Option(min=1, help="Largest weight.")] = 100.0,
    least: Annotated[float, typer.Option(min=0, help="Effective items that a conclusion needs.")] = 100.0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Off-policy evaluation: what a bundle would have earned, from the answers of an arm that explores.

    Example: genrecall ab ope runs/new/bundle --state runs/shop/state
    """
    from genrecall.eval.ope import evaluate_off_policy
    from genrecall.experiment.exposure import read_exposures
    from genrecall.recipes.off_policy import replayed
    from genrecall.serve.arms import FILE

    users = _opened(state, redis)
    try:
        log = replayed(
            bundle, read_exposures(state / FILE), _rewards(users), users, window_s=window_hours * 3600, device=device
        )
    finally:
        users.close()
    found = evaluate_off_policy(log, clip=clip, least_effective=least)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    print(f"{'':8}{'events an answer':>18}{'95% interval of users':>28}")
    for name, one in {"log": found.logged, **found.estimates}.items():
        print(f"{name:8}{one.value:18.4f}{one.low:17.4f} … {one.high:.4f}")
    print(f"\n{found.answers:,} answers to {found.users:,} users; {found.effective:,.0f} effective items; "
          f"support {found.support:.0%}, {found.clipped:.1%} of the weights clipped")  # fmt: skip


def _opened(state: Path, redis: str | None) -> State:
    """The state of a service that logged exposures; nothing is made where there is none."""
    from genrecall.errors import ConfigError
    from genrecall.serve.arms import FILE
    from genrecall.serve.config import ServeConfig
    from genrecall.serve.state.state import open_state

    if not (state / FILE).is_file():
        raise ConfigError(
            "no experiment was logged there",
            seen=f"no {FILE} in {state}",
            allowed="the --state of a service that runs with --experiments",
            fix="correct --state, or wait until its users were answered",
        )
    return open_state(ServeConfig(state=state, redis=redis))


def _rewards(users: State) -> Iterator[tuple[str, str, float]]:
    for _, event in users.log():
        if event.item_id is not None and event.event in ("click", "cart", "order"):
            yield event.user_id, event.item_id, float(event.timestamp or 0)


@app.command()
def simulate(
    effect: Annotated[float, typer.Option(help="Relative effect that is really there; 0 is an A/A test.")] = 0.0,
    users: Annotated[int, typer.Option(min=100, help="Of one experiment.")] = 2000,
    trials: Annotated[int, typer.Option(min=10, help="Experiments.")] = 200,
    looks: Annotated[int, typer.Option(min=1, help="At each of them, while it grows.")] = 10,
    interleave: Annotated[
        bool,
        typer.Option("--interleave", help="Two rankers in one list instead; EFFECT is the second's lead in noise."),
    ] = False,
    off_policy: Annotated[
        bool, typer.Option("--ope", help="Off-policy estimates instead; EFFECT is the share of answers that explore.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run experiments with known truth, and count how often the statistics were wrong.

    Example: genrecall ab simulate --effect 0.05 --users 5000

    Example: genrecall ab simulate --interleave --effect 0.3 --users 200 --trials 50

    Example: genrecall ab simulate --ope --effect 0.3 --users 500
    """
    import numpy as np

    from genrecall.errors import ConfigError
    from genrecall.experiment.simulator import World, trial

    least, most = (0.0, 1.0) if interleave or off_policy else (-1.0, 100.0)
    if not least <= effect <= most or (off_policy and effect == 1):
        raise ConfigError(
            "no such world can be simulated",
            seen=f"--effect {effect:g}",
            allowed=f"{least:g} to {most:g}{', but not 1' if off_policy else ''}",
            fix="correct --effect",
        )
    if looks > users // 20:
        raise ConfigError(
            "so many looks leave nothing to look at", seen=f"{looks} looks at {users} users",
            allowed=f"at most {users // 20}: twenty users more at each", fix="correct --looks or --users",
        )  # fmt: skip
    if interleave:
        _tell(_interleaved(effect, users, trials), as_json)
        return
    if off_policy:
        _tell(_off_policy(effect or 0.3, users, trials), as_json)
        return
    world = World(users=users, effect=effect)
    done = [trial(world, seed, looks=looks) for seed in range(trials)]
    found = {
        "truth": world.truth,
        "mean_difference": float(np.mean([t.once.value for t in done])),
        "one_look_covers": float(np.mean([t.once.low <= world.truth <= t.once.high for t in done])),
        "one_look_sees_it": float(np.mean([not t.once.low <= 0 <= t.once.high for t in done])),
        "always_valid_missed_at_any_look": float(np.mean([t.missed_at_any_look for t in done])),
        "one_look_interval_missed_at_any_look": float(np.mean([t.missed_once_at_any_look for t in done])),
        "variance_less_by_cuped": float(np.mean([t.once.reduction for t in done])),
    }
    _tell(found, as_json)


def _off_policy(explore: float, users: int, trials: int) -> dict[str, float]:
    """How far estimates are from the truth, and how often their intervals hold it."""
    import numpy as np

    from genrecall.eval.ope import evaluate_off_policy
    from genrecall.eval.ope_world import OffPolicyWorld, logged

    world = OffPolicyWorld(users=users, explore=explore)
    truth = logged(replace(world, users=50_000), trials)[1]
    found = [evaluate_off_policy(logged(world, seed)[0]) for seed in range(trials)]
    told = {"truth": truth, "log": float(np.mean([one.logged.value for one in found]))}
    for name in found[0].estimates:
        values = [one.estimates[name] for one in found]
        told[f"{name}_mean"] = float(np.mean([one.value for one in values]))
        told[f"{name}_error"] = float(np.sqrt(np.mean([(one.value - truth) ** 2 for one in values])))
        told[f"{name}_covers"] = float(np.mean([one.low <= truth <= one.high for one in values]))
    return told


def _interleaved(effect: float, users: int, trials: int) -> dict[str, float]:
    """The same rankers compared in one list and by two arms."""
    import numpy as np

    from genrecall.experiment.interleaved_world import InterleavedWorld, ab_trial, interleaved_trial

    world = InterleavedWorld(users=users, noise=(0.2, 0.2 * (1 - effect)))
    mixed = [interleaved_trial(world, seed) for seed in range(trials)]
    split = [ab_trial(world, seed) for seed in range(trials)]
    return {
        "truth": float(world.truth),
        "mean_preference": float(np.mean([t.value for t in mixed])),
        "interleaving_sees_it": float(np.mean([not t.low <= 0 <= t.high for t in mixed])),
        "interleaving_always_valid_sees_it": float(np.mean([not t.always_low <= 0 <= t.always_high for t in mixed])),
        "two_arms_see_it": float(np.mean([not t.low <= 0 <= t.high for t in split])),
    }


def _tell(found: dict[str, float], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:40}{value:10.4f}")
