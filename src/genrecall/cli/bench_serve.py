"""`genrecall bench serve`: a running service under load that does not wait for its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from genrecall.cli.options import AsJson

_UPSET = "though the service did not answer whole again after the load before"


def serve(
    url: Annotated[str, typer.Argument(help="Of a running service.")] = "http://127.0.0.1:8080",
    seconds: Annotated[
        float, typer.Option(min=1, help="Of each phase, half of it in the search; many times the deadline.")
    ] = 10.0,
    rate: Annotated[
        list[str] | None,
        typer.Option(help="Requests a second: measure only this; several with commas, or the option again."),
    ] = None,
    overload: Annotated[float, typer.Option(min=1, help="Multiple of its peak in the overload.")] = 3.0,
    deadline_ms: Annotated[int, typer.Option(min=1, max=25_000, help="Of every request.")] = 250,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Items of a request.")] = 10,
    beam: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Width of its search. Default: the service's.")
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="GENRECALL_KEY", help="API key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Open-loop load on a running service: the highest rate that it answers whole, its peak, overload, recovery.

    Whole: by the deadline at p99, and at most 1% degraded, refused or failed. Before anything is measured, the service
    is asked with a long deadline until a beam of this width is compiled. With --rate, only these rates are measured:
    what compares services, or numbers of gateways before one engine.

    Example: genrecall bench serve http://127.0.0.1:8080 --beam 50 --rate 200,400,800
    """
    from genrecall.bench.serve.asking import ServeBench
    from genrecall.bench.serve.measure import measure, measure_rates

    rates = [_rate_of(one, 1 / seconds) for text in rate or [] for one in text.split(",")]
    bench = ServeBench(url=url, key=key, seconds=seconds, overload=overload, deadline_ms=deadline_ms, k=k, beam=beam)
    found = measure_rates(bench, rates) if rates else measure(bench)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    warm = found["warm_up"]
    print(f"warm after {warm['seconds']:.1f} s: a request alone takes {warm['alone_ms']:.0f} ms, "
          f"{'and is' if warm['whole'] else 'NOT'} answered whole within {deadline_ms} ms")  # fmt: skip
    if rates:
        _print_phases([(f"{told['rate_per_s']:g}/s", told) for told in found["rates"]])
    else:
        _print_capacities(found)


def _print_capacities(found: Mapping[str, Any]) -> None:
    whole, tried = found["whole"], found["search"]
    sought = f"sought in {len(tried)} phases" if tried else "nobody was answered whole, so no rate was tried"
    if tried and (upset := sum(not one["calm"] for one in tried)):
        sought += f", {upset} of which began {_UPSET}"
    bound = "up to" if found["whole_is_settled"] or not tried else "up to at least"
    print(f"answered whole {bound} {found['whole_per_s']:.1f}/s, open loop ({sought}); "
          f"peak {found['peak_per_s']:.0f} answers/s, closed loop")  # fmt: skip
    phases = [("whole", whole)] if whole is not None else [(f"{one['rate_per_s']:g}/s", one) for one in tried[-1:]]
    _print_phases([*phases, *((phase, found[phase]) for phase in ("light", "quiet", "overload", "after"))])
    print(f"overload goodput: {found['overload']['goodput_of_peak']:.0%} of peak; "
          f"recovery {found['after']['recovery_s']:.1f} s")  # fmt: skip


def _print_phases(phases: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    print(f"{'':10}{'rate/s':>8}{'asked':>8}{'answered':>10}{'refused':>9}{'failed':>8}{'good/s':>8}{'whole/s':>9}"
          f"{'degraded':>10}{'p50':>8}{'p95':>8}{'p99':>8}{'own p50':>9}{'own p99':>9}{'refused p99':>13}"
          f"{'late p99':>10}")  # fmt: skip
    for name, told in phases:
        answered, own = told["answered_ms"], told["without_channels_ms"]
        print(f"{name:10}{told['rate_per_s']:8.1f}{told['asked']:8}{told['answered']:10}{told['refused']:9}"
              f"{told['failed']:8}{told['good_per_s']:8.0f}{told['whole_per_s']:9.0f}{told['degraded_share']:10.1%}"
              f"{_ms(answered, 'p50')}{_ms(answered, 'p95')}{_ms(answered, 'p99')}{_ms(own, 'p50', 9)}"
              f"{_ms(own, 'p99', 9)}{_ms(told['refused_ms'], 'p99', 13)}"
              f"{_ms(told['generator_late_ms'], 'p99', 10)}")  # fmt: skip
    for name, told in phases:
        if told["degraded_by"]:
            print(f"{name}: degraded by {', '.join(f'{why} ({n})' for why, n in told['degraded_by'].items())}")
        if not told.get("calm", True):
            print(f"{name}: began {_UPSET}")
    print("times in ms; own: beside the channels; late: how long after its time this generator sent a request, "
          "which no other time counts")  # fmt: skip


def _ms(quantiles: Mapping[str, float] | None, name: str, width: int = 8) -> str:
    return f"{'–' if quantiles is None else format(quantiles[name], '.1f'):>{width}}"


def _rate_of(text: str, least: float) -> float:
    from genrecall.errors import ConfigError

    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not least <= rate < float("inf"):
        raise ConfigError(
            "nothing can be measured at this rate", seen=text,
            allowed=f"{least:g} requests a second or more, so that one comes in --seconds; several with commas",
            fix="correct it, or raise --seconds",
        )  # fmt: skip
    return rate
