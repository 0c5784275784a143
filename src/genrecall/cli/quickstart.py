"""`genrecall quickstart`: every stage on the embedded data set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from genrecall.cli.options import AsJson, Device, Force


def command(
    run: Annotated[Path, typer.Option("--run", "-r", help="Where artifacts and reports go.")] = Path("runs/quickstart"),
    full: Annotated[bool, typer.Option("--full", help="Train for up to three quarters of an hour.")] = False,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Train at most so long.")] = None,
    cases: Annotated[int | None, typer.Option("--cases", min=1, help="Evaluate only so many users.")] = None,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Learn from a real shop's purchases and recommend, in about five minutes on two cores.

    The data set is UCI Online Retail (CC BY 4.0), shipped with the package. A second run resumes from what is finished.

    Example: genrecall quickstart --full --run runs/full
    """
    from genrecall.cli.recommend import show
    from genrecall.recipes import quickstart

    recipe = quickstart.full() if full else quickstart.short()
    limit = recipe.train.max_seconds if seconds is None else seconds
    train = dataclasses.replace(recipe.train, device=device, max_seconds=limit)
    outcome = quickstart.run(dataclasses.replace(recipe, train=train), run, cases=cases, force=force)
    if as_json:
        print(json.dumps(outcome.report, ensure_ascii=False, indent=2))
        return
    for name, value in outcome.report["stages"].items():
        print(f"{name:10} {value:7.1f} s")
    print()
    print_health(outcome.report["sid"])
    print()
    print(outcome.report["summary"])
    for user, history, profile, answer in outcome.users:
        print(f"── user {user}")
        show(outcome.shop, history, profile, answer, answer.notes)
        print()
    print(f"report:   {outcome.directory / 'report.html'}")
    print("next:     genrecall recommend --run " + f"{outcome.directory} --user {outcome.users[0][0]} --explain")
    print(f"          genrecall sid inspect --run {outcome.directory}")
    print("          genrecall quickstart --full --run runs/full" if not full else "          genrecall eval --help")
    print("          genrecall data validate --items items.parquet --events events.parquet   # then your own data")


def print_health(quality: dict[str, Any]) -> None:
    """SID health in a few lines."""
    rate, error = quality["collision_rate"], quality["reconstruction_error"]["after"]
    used = ", ".join(f"{use['used']}/{use['codes']} (perplexity {use['perplexity']:.0f})" for use in quality["levels"])
    print(f"SIDs: codes used by level {used}")
    print(f"      items that share a SID {rate['before']:.1%} before, {rate['after']:.1%} after resolving collisions;")
    print(
        f"      variance unexplained {error:.3f}; {quality['neighbours']['overlap']:.0%} of nearest items by vector are"
    )
    print(f"      nearest by SID, too (chance {quality['neighbours']['chance']:.1%})")
    for line in quality["alarms"]:
        print(f"      alarm: {line}")
