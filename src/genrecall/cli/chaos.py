"""`genrecall chaos`: break the service on this machine, and see which promises it keeps."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from genrecall.cli.options import AsJson


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory; its catalog beside it names the users.")] = Path(
        "runs/quickstart/bundle"
    ),
    run: Annotated[str, typer.Option("--run", help="short or long.")] = "short",
    only: Annotated[list[str] | None, typer.Option(help="Only this scenario; repeatable.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Only say what there is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Kill, stop, overload, swap and abuse a service that is started for it; exit with 1 if a promise is broken.

    Example: genrecall chaos runs/quickstart/bundle --run short
    """
    from genrecall.errors import ConfigError
    from genrecall.serve.chaos.scenarios import SCENARIOS, Setting
    from genrecall.serve.chaos.target import serving
    from genrecall.telemetry import log

    if listed:
        for scenario in SCENARIOS:
            print(f"{scenario.name:16}{scenario.promise}")
        return
    names = [scenario.name for scenario in SCENARIOS]
    if run not in ("short", "long") or not set(only or []) <= set(names):
        raise ConfigError(
            "no such run",
            seen=f"--run {run} --only {only}",
            allowed=f"short, long; {', '.join(names)}",
            fix="choose one",
        )
    chosen = [scenario for scenario in SCENARIOS if not only or scenario.name in only]
    found = []
    with tempfile.TemporaryDirectory() as scratch, serving(bundle, Path(scratch) / "state") as target:
        users = target.call("GET", "/v1/users")[1]["users"] or ["nobody"]
        setting = Setting(bundle=bundle, scratch=Path(scratch), users=users, scale=1 if run == "short" else 10)
        for scenario in chosen:
            log(f"• {scenario.name} …")
            result, kept = scenario.run(setting, None if scenario.own else target)
            found.append({"scenario": scenario.name, "promise": scenario.promise, "result": result, "kept": kept})
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for row in found:
            print(
                f"{'kept' if row['kept'] else 'BROKEN':8}{row['scenario']:16}{row['promise']}\n{'':24}{row['result']}"
            )
    if not all(row["kept"] for row in found):
        raise typer.Exit(1)
