"""`genrecall bench engine`: suites of measurements, resumable into one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from genrecall.cli.options import AsJson, Device, count_of


def engine(
    shape: Annotated[
        str, typer.Option(help="Of the model: qwen2-0.5b, qwen2-1.5b, qwen2.5-7b, qwen3-1.7b, 10m, tiny, …")
    ] = "small",
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="The only kind there is; said for clarity.")
    ] = True,
    suite: Annotated[
        str,
        typer.Option(
            help="table, open-loop, options, catalog, long, start, ranks, replicas; several with commas. "
            "Default: table; ranks with --tp, replicas with --replicas."
        ),
    ] = "",
    beam: Annotated[str, typer.Option(help="Beam widths; all beams come back.")] = "50",
    input: Annotated[str, typer.Option(help="Tokens a prompt, or a range such as 30-4000.")] = "150",
    layout: Annotated[str, typer.Option(help="Levels x codes of the SIDs.")] = "4x256",
    catalog_items: Annotated[str, typer.Option(help="Items in the catalog, with random SIDs: 100k, 10M, …")] = "100k",
    large_items: Annotated[str, typer.Option(help="Of the large catalog of the suite catalog.")] = "10M",
    long_prompt: Annotated[int, typer.Option(min=10, help="Tokens of the suite long.")] = 4000,
    precision: Annotated[str, typer.Option(help="bf16, fp8, int8 or fp32; several with commas.")] = "",
    rate: Annotated[float | None, typer.Option(help="Open loop: Poisson arrivals, requests a second.")] = None,
    slo_ms: Annotated[float | None, typer.Option(help="Search the highest rate whose p99 keeps this.")] = None,
    probes: Annotated[int, typer.Option(min=1, help="Rates that a search tries.")] = 5,
    versus: Annotated[str | None, typer.Option(help="hf: transformers' own search, in the same process.")] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes that are tried.")] = "8,16,32",
    seconds: Annotated[float, typer.Option(help="Of each load.")] = 3.0,
    checked_beams: Annotated[str, typer.Option(help="Returned SIDs that are looked at one by one.")] = "1M",
    forced: Annotated[str, typer.Option(help="Forced levels: run, skip or auto.")] = "run",
    table: Annotated[
        Path | None, typer.Option(help="A real SID table (table.parquet, or a bundle's sid folder) for forced levels.")
    ] = None,
    tp: Annotated[int, typer.Option(min=1, help="Spread the model over so many GPUs, beside one.")] = 1,
    all_reduce: Annotated[
        str, typer.Option(help="Sums between them: auto, library (NCCL, gloo), one_shot; several with commas.")
    ] = "auto",
    sequence_tokens: Annotated[
        int,
        typer.Option(help="With --tp: share batches of so many prompt tokens by tokens, too; try 2048."),
    ] = 0,
    replicas: Annotated[int, typer.Option(min=1, help="Set so many engines, one a GPU, beside one.")] = 1,
    out: Annotated[Path | None, typer.Option(help="File of results; cases that it holds are not repeated.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """The engine under load, beside the floor of its linear layers and transformers' search.

    A case that fails is recorded with its reason, the others go on, and the command ends with 1. With --out every case
    is written as soon as it is measured, and the same command goes on where an earlier one was stopped.

    Example: genrecall bench engine --shape qwen2-1.5b --beam 5,50,300 --precision bf16,fp8 --versus hf --json

    Example: genrecall bench engine --suite open-loop,options --shape qwen2-1.5b --beam 5,50,300 --out h100.json

    Example: genrecall bench engine --shape qwen2.5-7b --precision bf16 --tp 2 --all-reduce library,one_shot --json

    Example: genrecall bench engine --shape qwen2-1.5b --precision bf16 --batch 16 --replicas 4 --json
    """
    from genrecall.bench.engine import EngineBench, failed, measure
    from genrecall.errors import ConfigError
    from genrecall.hardware import pick_device

    if versus not in (None, "hf"):
        raise ConfigError("unknown baseline", seen=versus, allowed="hf", fix="write --versus hf, or leave it out")
    levels, cross, codes = layout.lower().partition("x")
    least, _, most = input.partition("-")
    bench = EngineBench(
        suites=tuple((suite or ("ranks" if tp > 1 else "replicas" if replicas > 1 else "table")).split(",")),
        shape=shape,
        beams=tuple(map(count_of, beam.split(","))),
        input=(count_of(least), count_of(most or least)),
        levels=count_of(levels),
        codes=count_of(codes if cross else layout),
        catalog_items=count_of(catalog_items),
        large_items=count_of(large_items),
        long_prompt=long_prompt,
        precisions=tuple((precision or ("bf16" if pick_device(device).type == "cuda" else "fp32")).split(",")),
        rate=rate,
        slo_ms=slo_ms,
        probes=probes,
        versus_hf=versus == "hf",
        batches=tuple(map(count_of, batch.split(","))),
        seconds=seconds,
        checked_beams=count_of(checked_beams),
        forced=forced,
        table=table,
        device=device,
        ranks=tp,
        all_reduce=tuple(all_reduce.split(",")),
        sequence_tokens=sequence_tokens,
        replicas=replicas,
    )
    found = measure(bench, out)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    if wrong := failed(found):
        typer.echo(f"{len(wrong)} cases failed: {', '.join(wrong)}", err=True)
        raise typer.Exit(1)


def quality(
    bundle: Annotated[Path, typer.Option(help="A bundle with a trained model.")],
    catalog: Annotated[Path, typer.Option(help="The catalog that it was made from: its validation cases are asked.")],
    cases: Annotated[int, typer.Option(min=1, help="So many, drawn at random.")] = 64,
    beam: Annotated[int, typer.Option(min=1, help="Beam width.")] = 50,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp8, int8; several with commas.")] = "",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """What lower precision changes in a trained model's answers, beside transformers in float32 and bf16.

    Ends with 1 where bf16 or fp32 is not within its bounds; fp8 and int8 are told, not judged.

    Example: genrecall bench quality --bundle runs/shop/bundle --catalog runs/shop/catalog --precision bf16,fp8,int8
    """
    from genrecall.bench.quality import QualityBench
    from genrecall.hardware import pick_device
    from genrecall.recipes.quality_gate import quality_gate

    chosen = precision or ("bf16,fp8,int8" if pick_device(device).type == "cuda" else "fp32,int8")
    bench = QualityBench(bundle=bundle, beam=beam, precisions=tuple(chosen.split(",")), device=device)
    found = quality_gate(bench, catalog, cases=cases)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        cases = found["config"]["cases"]
        recall = found["float32"]["recall"]
        print(f"{cases} cases, W = {beam}, {found['device']}; reference: {found['reference']}")
        print(f"{'':18}{'top-1':>8}{'or tie':>8}{'overlap':>9}{'error':>9}{'recall@10':>11}{'recall@beam':>13}")
        print(f"{'float32':18}{'':34}{recall['@10']:11.4f}{recall['@beam']:13.4f}")
        for name in ("transformers bf16", *chosen.split(",")):
            if name in found:
                one = found[name]
                print(f"{name:18}{one['top_1']:8.1%}{one['top_1_or_tie']:8.1%}{one['overlap']:9.1%}{one['error']:9.4f}"
                      f"{one['recall']['@10']:11.4f}{one['recall']['@beam']:13.4f}")  # fmt: skip
        for bound, held in found["passed"].items():
            print(f"{'holds' if held else 'FAILS'}: {bound}")
    if not all(found["passed"].values()):
        raise typer.Exit(1)


def plot(
    results: Annotated[Path, typer.Argument(help="A file of `genrecall bench engine --out`.")],
    out: Annotated[Path | None, typer.Option(help="Picture to write; by default beside the file.")] = None,
) -> None:
    """Rate against p99, and where the GPU's time goes beside the floor, as one picture.

    Example: genrecall bench plot h100.json --out h100.png
    """
    from genrecall.bench.plot import draw

    target = out or results.with_suffix(".png")
    draw(json.loads(results.read_text(encoding="utf-8")), target)
    print(f"{target} is written")


def _print(found: dict[str, Any]) -> None:
    from genrecall.bench.engine import told_of

    machine, config = found["hardware"], found["config"]
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    print(f"{machine['cpu']}, {machine['cores']} cores, {gpus}; commit {machine['commit']}; on {found['device']}")
    print(f"{config['shape']}, {config['catalog_items']:,} items in {config['levels']}x{config['codes']}, "
          f"{config['input'][0]} to {config['input'][1]} tokens in")  # fmt: skip
    width = max(map(len, found["cases"]), default=0)
    for name, figures in found["cases"].items():
        loop = figures.get("slo") or figures.get("open_loop")
        waits = f", p99 {loop['p99_ms']:.0f} ms at {loop['rate']:.1f} requests/s" if loop else ""
        print(f"{name:{width}s}  {figures.get('error') or told_of(figures)}{waits}")
