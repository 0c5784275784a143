"""`genrecall bench`: figures that anyone can measure again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genrecall.cli.bench_engine import engine, plot, quality
from genrecall.cli.bench_rank import rank
from genrecall.cli.bench_serve import serve
from genrecall.cli.options import AsJson, Device, count_of

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure speed on this machine."""


app.command()(engine)
app.command()(quality)
app.command()(rank)
app.command()(serve)
app.command()(plot)


@app.command()
def kernels(
    beam: Annotated[int, typer.Option(help="Beam width W.")] = 300,
    requests: Annotated[int, typer.Option(help="Requests R; R x W rows go through a layer.")] = 8,
    prompt: Annotated[int, typer.Option(help="Tokens a prompt.")] = 150,
    long_prompt: Annotated[int, typer.Option(help="Tokens of the long prompts.")] = 4000,
    items: Annotated[int, typer.Option(help="Items in the catalog.")] = 100_000,
    candidates: Annotated[int, typer.Option(help="Of each of 16 requests, for the ranker's kernels.")] = 1000,
    table_rows: Annotated[
        str, typer.Option(help="Of the ranker's table in host memory, 16 wide, in float16: 3.2 GB.")
    ] = "100M",
    only: Annotated[str, typer.Option(help="Kernels whose names begin so; several with commas.")] = "",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time of every kernel beside its torch reference and beside the floor of this device.

    Sizes are those of a decoding step of Qwen2-1.5B, and of the ranker of genrecall bench rank. The floor is the
    largest of bytes over the copy bandwidth, bytes out of host memory over the bus rate and FLOP over the matmul rate,
    all measured in the same run. Sums between GPUs need several of them: genrecall bench engine --tp.

    Example: genrecall bench kernels --only attend --beam 50

    Example: genrecall bench kernels --only cached,crossed,history,rank
    """
    from genrecall.bench.kernel_cases import RankerWorkload, Workload
    from genrecall.bench.kernels import KernelBench, measure

    work = Workload(beam=beam, requests=requests, prompt=prompt, long_prompt=long_prompt, items=items)
    ranks = RankerWorkload(candidates=candidates, table_rows=count_of(table_rows))
    found = measure(KernelBench(workload=work, ranks=ranks, only=tuple(only.split(",")), device=device))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    machine = found["hardware"]
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    print(f"{machine['cpu']}, {machine['cores']} cores, {gpus}; commit {machine['commit']}; on {found['device']}")
    copy, matmul = found["copy_bytes_per_s"] / 1e12, found["matmul_flop_per_s"] / 1e12
    print(f"{found['implementation']}, {found['dtype']}; copy {copy:.2f} TB/s, matmul {matmul:.1f} TFLOP/s")
    print(f"{'kernel':20s} {'us':>9s} {'reference':>10s} {'floor':>8s} {'share':>6s} {'differs':>8s}  shape")
    for row in found["kernels"]:
        print(
            f"{row['name']:20s} {row['kernel_us']:9.1f} {row['reference_us']:10.1f} {row['floor_us']:8.1f} "
            f"{row['share_of_floor']:6.0%} {row['largest_difference']:8.1e}  {row['shape']}"
        )


@app.command()
def train(
    shape: Annotated[str, typer.Option(help="Of the model, as in genrecall bench engine; random weights.")] = "small",
    layers: Annotated[int | None, typer.Option(min=1, help="So many of its layers, where all do not fit.")] = None,
    history: Annotated[int, typer.Option(help="Items of a user.")] = 35,
    batch_tokens: Annotated[int, typer.Option(help="Tokens a forward pass of one process.")] = 8192,
    accumulate: Annotated[int, typer.Option(help="Forward passes an optimiser step.")] = 1,
    shard: Annotated[bool, typer.Option("--shard", "--fsdp", help="Under torchrun: FSDP2, no copies.")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute activations twice to store fewer.")
    ] = False,
    stored_layers: Annotated[int, typer.Option(min=0, help="With it: so many layers store them all the same.")] = 0,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    steps: Annotated[int, typer.Option(help="That are timed.")] = 10,
    out: Annotated[Path | None, typer.Option(help="File of results; a case that it holds is not repeated.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Speed of training steps, and their share of the devices' bf16 peak.

    Example: genrecall bench train --shape small

    Example: torchrun --nproc-per-node 2 -m genrecall bench train --shape qwen2.5-7b --fsdp --gradient-checkpointing
    """
    from genrecall import processes, telemetry
    from genrecall.bench.train import TrainBench, measure, measure_into

    telemetry.console.quiet = not processes.is_main()
    bench = TrainBench(
        shape=shape, layers=layers, history=history, batch_tokens=batch_tokens, accumulate=accumulate, shard=shard,
        gradient_checkpointing=gradient_checkpointing, stored_layers=stored_layers, precision=precision, steps=steps,
        device=device,
    )  # fmt: skip
    found = measure_into(bench, out) if out else measure(bench)
    if found is None:  # under torchrun one process speaks
        return
    if as_json:
        print(json.dumps(found, indent=2))
        return
    machine = found["hardware"]
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    print(f"{machine['cpu']}, {machine['cores']} cores, {gpus}; commit {machine['commit']}; on {found['device']}")
    how = "one model spread over" if found["sharded"] else "copies on"
    share = "" if found["share_of_peak"] is None else f"  {found['share_of_peak']:.1%} of bf16 peak"
    memory = "" if found["memory_gb"] is None else f"  {found['memory_gb']:.1f} GB a device"
    cut = "" if layers is None else f" cut to {layers} layers"
    print(f"{shape}{cut}, {how} {found['processes']} processes: {found['step_s']:.3f} s a step  "
          f"{found['tokens_per_s']:,.0f} tokens/s  {found['targets_per_s']:,.0f} items/s{share}{memory}")  # fmt: skip


@app.command()
def sid(
    items: Annotated[int, typer.Option(help="Synthetic items.")] = 1_000_000,
    dims: Annotated[int, typer.Option(help="Width of their vectors.")] = 768,
    shape: Annotated[list[str] | None, typer.Option(help="Levels x codes, such as 4x256. Can be repeated.")] = None,
    quantizer: Annotated[str, typer.Option(help="rq_vae, rq_kmeans, fsq or pq.")] = "rq_vae",
    collisions: Annotated[str, typer.Option(help="reassign, sinkhorn, extra_level or keep.")] = "reassign",
    no_report: Annotated[bool, typer.Option("--no-report", help="Leave the quality report out.")] = False,
    directory: Annotated[Path | None, typer.Option(help="Where the vectors are put while it runs.")] = None,
    seed: Annotated[int, typer.Option(help="Of vectors and quantiser.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Seconds and memory to turn synthetic clustered vectors into distinct semantic IDs.

    Default shapes: 4x256 and 3x8192.

    Example: genrecall bench sid --items 1000000 --dims 768 --quantizer rq_vae --device cuda
    """
    from genrecall.bench.sid import SidBench, measure

    chosen = {"shapes": tuple(_shape(one) for one in shape)} if shape else {}
    bench = SidBench(
        items=items,
        dims=dims,
        quantizer=quantizer,
        collisions=collisions,
        report=not no_report,
        device=device,
        seed=seed,
        directory=directory,
        **chosen,
    )
    found = measure(bench)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    machine = found["hardware"]
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    print(f"{machine['cpu']}, {machine['cores']} cores, {gpus}; commit {machine['commit']}; on {found['device']}")
    print(f"{items:,} items x {dims}, {found['vectors']}; peak memory {found['peak_rss_gb']:.1f} GB")
    for run in found["runs"]:
        stages = "  ".join(f"{name} {value:.0f} s" for name, value in run["seconds"].items())
        print(f"{quantizer} {run['levels']} x {run['codes']}: {run['total_s']:.0f} s  ({stages})")
        print(f"  shared a SID {run['shared_before']:.1%} → {run['shared_after']:.1%}, moved {run['moved']:.1%}")


def _numbers(text: str) -> tuple[int, ...]:
    from genrecall.errors import ConfigError

    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise ConfigError(
            "these are not sizes", seen=text, allowed="such as 50, or 5,50,300", fix="write whole numbers"
        )
    return tuple(map(int, parts))


def _shape(text: str) -> tuple[int, int]:
    from genrecall.errors import ConfigError

    levels, cross, codes = text.lower().partition("x")
    if not (cross and levels.strip().isdigit() and codes.strip().isdigit()):
        raise ConfigError(
            "this is not a shape of SIDs", seen=text, allowed="levels x codes, such as 4x256", fix="write it like 4x256"
        )
    return int(levels), int(codes)


@app.command()
def graph(
    items: Annotated[int, typer.Option(min=100, help="Items of the catalog.")] = 10_000,
    history: Annotated[int, typer.Option(min=1, help="Events a row.")] = 50,
    k: Annotated[int, typer.Option("-k", min=1, help="Items a row.")] = 50,
    threads: Annotated[int, typer.Option(min=1, help="That call at a time.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Of each graph; figures are medians.")] = 40,
    round_s: Annotated[float, typer.Option(min=0.05, help="Seconds of a round.")] = 0.2,
    as_json: AsJson = False,
) -> None:
    """What the TensorFlow operators cost beside an identity graph; the engine behind them computes nothing.

    Example: genrecall bench graph --threads 4
    """
    from genrecall.bench.graph import GraphBench, measure

    found = measure(GraphBench(items=items, history=history, k=k, threads=threads, rounds=rounds, round_s=round_s))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"TensorFlow {found['tensorflow']}; operators compiled in {found['compile_s']} s; {threads} threads")
    print(f"{'':32}{'p50 µs':>9}{'overhead µs':>13}{'calls/s':>10}{'of identity':>13}{'cpu µs':>9}{'by cpu':>9}")
    for name, told in found["graphs"].items():
        print(f"{name:32}{told['p50_us']:9.0f}{told['overhead_p50_us']:13.0f}{told['per_s']:10.0f}"
              f"{told['of_identity']:13.1%}{told['cpu_us']:9.0f}{told['of_identity_by_cpu']:9.1%}")  # fmt: skip
    print("by cpu: the share that is left where cores are short; cpu counts this process and the engine's")
