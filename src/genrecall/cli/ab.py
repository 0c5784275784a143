"""`genrecall ab`: what experiments say, and whether the statistics can be believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genrecall.cli.options import AsJson, Redis

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(help="A/B tests.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A/B tests."""


@app.command()
def report(
    experiments: Annotated[Path, typer.Argument(help="The TOML file that the service ran with.")],
    state: Annotated[Path, typer.Option("--state", help="Of that service: its exposures and events.")],
    redis: Redis = None,
    window_hours: Annotated[float, typer.Option(help="An event so long after an answer counts.")] = 24.0,
    before_days: Annotated[float, typer.Option(help="What CUPED looks back at.")] = 14.0,
    planned: Annotated[int, typer.Option(help="Users at which the sequential interval is tightest.")] = 10_000,
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
    from genrecall.serve.config import ServeConfig
    from genrecall.serve.state.state import open_state

    config = ReportConfig(window_s=window_hours * 3600, before_s=before_days * 86_400, planned=planned)
    users = open_state(ServeConfig(state=state, redis=redis))

    def events() -> Iterator[tuple[str, str, float]]:
        for _, event in users.log():
            if event.item_id is not None and event.event in ("click", "cart", "order"):
                yield event.user_id, event.item_id, float(event.timestamp or 0)

    found = []
    for layer in read_layers(experiments):
        exposures = read_exposures(state / FILE)
        if layer.interleave:
            found.append(
                interleaved_report(
                    layer.name, list(layer.arms), exposures, events(), window_s=config.window_s, planned=planned
                )
            )
        else:
            found.append(made(layer, exposures, events(), config))
    channels = by_channel(read_exposures(state / FILE), events(), config.window_s)
    users.close()
    if as_json:
        print(json.dumps({"layers": found, "channels": channels}, indent=2))
        return
    for one in found:
        print(interleaved_page(one) if one.get("interleaved") else to_markdown(one))
    print(channels_page(channels))


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
    as_json: AsJson = False,
) -> None:
    """Run experiments with known truth, and count how often the statistics were wrong.

    Example: genrecall ab simulate --effect 0.05 --users 5000

    Example: genrecall ab simulate --interleave --effect 0.3 --users 200 --trials 50
    """
    import numpy as np

    from genrecall.experiment.simulator import World, trial

    if interleave:
        _tell(_interleaved(effect, users, trials), as_json)
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
