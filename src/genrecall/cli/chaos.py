"""`genrecall chaos`: break the service on this machine, and see which promises it keeps."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
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
    from genrecall.errors import ConfigError, GenrecallError
    from genrecall.serve.chaos.scenarios import SCENARIOS, Setting
    from genrecall.serve.chaos.target import serving
    from genrecall.telemetry import log

    if listed:
        for scenario in SCENARIOS:
            print(f"{scenario.name:18}{scenario.promise}")
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
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        # The users are the service's to tell, also for scenarios that start services of their own.
        shared = stack.enter_context(serving(bundle, Path(scratch) / "state"))
        users = shared.call("GET", "/v1/users")[1]["users"] or ["nobody"]
        setting = Setting(bundle=bundle, scratch=Path(scratch), users=users, scale=1 if run == "short" else 10)
        for scenario in chosen:
            log(f"• {scenario.name} …")
            begun = time.monotonic()
            try:
                result, kept = scenario.run(setting, None if scenario.own else shared)
            except (AssertionError, OSError, KeyError, GenrecallError) as error:
                result, kept = f"ended by {type(error).__name__}: {str(error)[:200]}", False
            seconds = round(time.monotonic() - begun, 1)
            told = {"scenario": scenario.name, "promise": scenario.promise, "result": result, "kept": kept}
            found.append({**told, "seconds": seconds})
            if not as_json:
                print(f"{'kept' if kept else 'BROKEN':8}{scenario.name:18}{scenario.promise}")
                print(f"{'':26}{result} ({seconds} s)", flush=True)
    if as_json:
        print(json.dumps(found, indent=2))
    if not all(row["kept"] for row in found):
        raise typer.Exit(1)
