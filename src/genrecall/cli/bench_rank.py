"""`genrecall bench rank`: what ranking costs beside recall."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genrecall.cli.options import AsJson, Device, count_of


def rank(
    shape: Annotated[str, typer.Option(help="Of the model: qwen2-1.5b, qwen2-0.5b, 10m, tiny, …")] = "small",
    beam: Annotated[int, typer.Option(min=1, help="Beam width.")] = 300,
    candidates: Annotated[int, typer.Option(min=1, help="That are ranked, of a request.")] = 1000,
    unvisited: Annotated[
        str, typer.Option(help="So many of them that no beam visited, for the engine to score; several with commas.")
    ] = "0,100,700",
    input: Annotated[str, typer.Option(help="Tokens a prompt, or a range such as 30-4000.")] = "150",
    layout: Annotated[str, typer.Option(help="Levels x codes of the SIDs.")] = "4x256",
    catalog_items: Annotated[str, typer.Option(help="SIDs of the catalog: 100k, 10M, …")] = "100k",
    table_rows: Annotated[str, typer.Option(help="Of the large sparse table, 16 wide, in float16.")] = "100M",
    on_device: Annotated[
        bool, typer.Option("--on-device", help="Rank with that table on the device, not behind a cache.")
    ] = False,
    cached: Annotated[str, typer.Option(help="Shares of it that caches hold, for the lookups.")] = "0.005,0.02,0.05",
    lookups: Annotated[int, typer.Option(min=1, help="Of a batch.")] = 16_384,
    precision: Annotated[str, typer.Option(help="bf16, fp8, int8 or fp32.")] = "",
    batch: Annotated[str, typer.Option(help="Batch sizes that are tried.")] = "8,16",
    seconds: Annotated[float, typer.Option(help="Of each load.")] = 4.0,
    slo_ms: Annotated[float, typer.Option(help="p99 of the open loop.")] = 100.0,
    probes: Annotated[int, typer.Option(min=1, help="Rates that a search tries.")] = 5,
    out: Annotated[Path | None, typer.Option(help="File of results; cases that it holds are not repeated.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Rates of recall alone and of recall with ranks, saturated and within a p99; lookups of tables larger than a GPU.

    The ranker has random weights. Requests go the way of the service's worker: engine, then the ranking desk, which
    takes the state and the beams' scores as the search left them and lets the engine score what no beam visited.

    Example: genrecall bench rank --shape qwen2-1.5b --precision bf16 --out h100-rank.json
    """
    from genrecall.bench.engine import failed
    from genrecall.bench.rank import RankBench, measure, written
    from genrecall.hardware import pick_device

    levels, cross, codes = layout.lower().partition("x")
    least, _, most = input.partition("-")
    bench = RankBench(
        shape=shape,
        precision=precision or ("bf16" if pick_device(device).type == "cuda" else "fp32"),
        beam=beam,
        candidates=candidates,
        unvisited=tuple(map(count_of, unvisited.split(","))),
        input=(count_of(least), count_of(most or least)),
        levels=count_of(levels),
        codes=count_of(codes if cross else layout),
        catalog_items=count_of(catalog_items),
        table_rows=count_of(table_rows),
        hosted=not on_device,
        cached=tuple(float(share) for share in cached.split(",")),
        lookups=lookups,
        batches=tuple(map(count_of, batch.split(","))),
        seconds=seconds,
        slo_ms=slo_ms,
        probes=probes,
        device=device,
    )
    found = measure(bench, out)
    typer.echo(json.dumps(found, indent=2) if as_json else written(found))
    if wrong := failed(found):
        typer.echo(f"{len(wrong)} cases failed: {', '.join(wrong)}", err=True)
        raise typer.Exit(1)
