"""`genrecall refresh`: learn from what happened since, judge the result, and bring it into a running service."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genrecall.cli.options import AsJson, Device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from genrecall.recipes.gates import Gate
    from genrecall.recipes.refresh import News
    from genrecall.recipes.rollout import Rolled


def command(
    run: Annotated[Path, typer.Argument(help="Run directory of the bundle in use.")],
    out: Annotated[Path, typer.Option(help="Directory of the new run; the same command goes on where it stopped.")],
    events: Annotated[
        Path | None, typer.Option(help="New events (user_id, item_id, timestamp, …). Default: the log of --state.")
    ] = None,
    items: Annotated[Path | None, typer.Option(help="New items, or new values of known ones.")] = None,
    users: Annotated[Path | None, typer.Option(help="Profiles of new users, or new values.")] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Vectors of all items. Default: those of new items are computed.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Of a running service: its log is learnt from, and it gets the new bundle."),
    ] = None,
    release: Annotated[bool, typer.Option("--release/--no-release", help="Bring it into that service.")] = True,
    epochs: Annotated[float, typer.Option(help="Passes over all events.")] = 2.0,
    rate_share: Annotated[float, typer.Option(help="Learning rate as a share of the first training's.")] = 0.3,
    cases: Annotated[int, typer.Option(help="Validation cases that both bundles are asked.")] = 1000,
    recall_drop: Annotated[float, typer.Option(help="Share of recall that may be lost.")] = 0.02,
    fill_drop: Annotated[float, typer.Option(help="Fill rate that may be lost.")] = 0.01,
    least_overlap: Annotated[float, typer.Option(help="Of the lists with those of the bundle in use.")] = 0.2,
    most_drift: Annotated[float, typer.Option(help="Of what is shown, bits of Jensen-Shannon divergence.")] = 0.3,
    canary: Annotated[
        list[float] | None, typer.Option(help="Percent of the users, repeatable, ascending. Default: 5, 25.")
    ] = None,
    watch_s: Annotated[float, typer.Option(help="Seconds that each step is watched.")] = 60.0,
    least_answers: Annotated[int, typer.Option(help="Answers of the new bundle that a watch needs.")] = 100,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Retrain warm on new events, refuse what is worse, canary what is not, and roll back what disappoints.

    Known items keep their SIDs; new ones are appended. The run in use is only read. The new run is laid out like it, so
    that the next refresh starts from there.

    Example: genrecall refresh runs/shop --out runs/tuesday --state runs/shop/state

    Example: genrecall refresh runs/shop --out runs/tuesday --events today.parquet --items new_items.parquet
    """
    from genrecall.recipes.gates import GateConfig, require_passed
    from genrecall.recipes.refresh import RefreshConfig, bundle_digests, refresh
    from genrecall.recipes.rollout import RolloutConfig, require_in_service, roll_out
    from genrecall.recipes.warm import WarmConfig
    from genrecall.serve.admin_client import ask

    config = RefreshConfig(
        warm=WarmConfig(epochs=epochs, rate_share=rate_share, device=device),
        gates=GateConfig(
            cases=cases,
            recall_drop=recall_drop,
            fill_drop=fill_drop,
            least_overlap=least_overlap,
            most_drift=most_drift,
        ),
    )
    rollout = RolloutConfig(steps=tuple(canary or (5.0, 25.0)), watch_s=watch_s, least_answers=least_answers)
    if state is not None and release:
        require_in_service(
            lambda method, path, body: ask(state, method, path, body), bundle_digests(run / "bundle", out / "bundle")
        )
    done = refresh(run, out, _news(run, out, events, items, users, vectors, state), config)
    if not as_json:
        print(f"learnt from {done.events:,} new events and {done.items:,} new items  {done.bundle.digest}")
        _show_gates(done.gates)
    rolled: Rolled | None = None
    passed = all(gate.passed for gate in done.gates)
    if passed and state is not None and release:
        rolled = roll_out(
            lambda method, path, body: ask(state, method, path, body),
            done.bundle.path, done.bundle.digest, done.active, rollout,
        )  # fmt: skip
    if as_json:
        told = None if rolled is None else {"outcome": rolled.outcome, "watches": [vars(w) for w in rolled.watches]}
        print(json.dumps({**done.to_dict(), "rollout": told}, indent=2, ensure_ascii=False))
    elif rolled is not None:
        _show_rollout(rolled)
    require_passed(done.gates, done.bundle.path)
    if rolled is not None and not rolled.kept:
        raise typer.Exit(1)


def _news(
    run: Path, out: Path, events: Path | None, items: Path | None, users: Path | None, vectors: Path | None,
    state: Path | None,
) -> News:  # fmt: skip
    """The file that was given, or a snapshot of the service's log, taken once a refresh."""
    from genrecall.errors import ConfigError
    from genrecall.recipes.refresh import News, last_sequence
    from genrecall.serve.state.export import export_log
    from genrecall.telemetry import log

    if events is not None or (state is None and items is not None):
        return News(events=events, items=items, users=users, vectors=vectors)
    if state is None:
        raise ConfigError(
            "nothing says what happened since", seen="neither --events nor --state, nor --items",
            allowed="a file of events or of items, or the state of a service", fix="give one of them",
        )  # fmt: skip
    if not (state / "data.mdb").is_file():
        raise ConfigError(
            "there is no service's state", seen=str(state), allowed="the --state of `genrecall serve`",
            fix="correct --state, or give --events FILE",
        )  # fmt: skip
    file, mark = out / "log.parquet", out / "log.json"
    if not mark.is_file():
        out.mkdir(parents=True, exist_ok=True)
        count, newest = export_log(state, file, after=last_sequence(run))
        mark.write_text(json.dumps({"events": count, "sequence": newest}) + "\n", encoding="utf-8")
        log(f"{count:,} events of the service's log, up to number {newest:,}")
    told = json.loads(mark.read_text(encoding="utf-8"))
    if not told["events"] and items is None:
        mark.unlink()
        raise ConfigError(
            "there is nothing new to learn from", seen=f"no event after number {told['sequence']:,} of {state}",
            allowed="events that came since the last refresh", fix="wait for events",
        )  # fmt: skip
    return News(
        events=file if told["events"] else None, items=items, users=users, vectors=vectors, sequence=told["sequence"]
    )


def _show_gates(gates: Sequence[Gate]) -> None:
    from rich.table import Table

    table = Table("gate", "in use", "new", "limit", "", "", title="Gates")
    for gate in gates:
        before = "" if gate.before is None else f"{gate.before:.4f}"
        table.add_row(
            gate.name, before, f"{gate.after:.4f}", gate.limit, "passed" if gate.passed else "REFUSED", gate.note
        )
    _print(table)


def _show_rollout(rolled: Rolled) -> None:
    from rich.table import Table

    names = ("answers", "p99", "degraded_share", "fill")
    table = Table("step", "", *names, "", title="Rollout")
    for watch in rolled.watches:
        for side, figures in (("in use", watch.before), ("new", watch.after)):
            shown = [f"{figures[name]:.4g}" if name in figures else "" for name in names]
            table.add_row(watch.phase, side, *shown, "; ".join(watch.worse) if side == "new" else "")
    if rolled.watches:
        _print(table)
    print(f"rollout: {rolled.outcome}")


def _print(table: Table) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160).print(table)
