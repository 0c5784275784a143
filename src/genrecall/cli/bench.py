"""`genrecall bench`: figures that anyone can measure again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genrecall.cli.options import AsJson, Device

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure speed on this machine."""


@app.command()
def engine(
    size: Annotated[str, typer.Option(help="Random model: tiny, small or base.")] = "small",
    items: Annotated[int, typer.Option(help="Items in the catalog.")] = 10_000,
    prompt: Annotated[int, typer.Option(help="Tokens a prompt.")] = 150,
    beam: Annotated[int, typer.Option(help="Beam width; all beams come back.")] = 50,
    requests: Annotated[int, typer.Option(help="Requests a call.")] = 32,
    repeats: Annotated[int, typer.Option(help="Timed calls.")] = 5,
    alone: Annotated[bool, typer.Option("--alone", help="Leave transformers' search out.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Requests per second of the engine and of transformers' constrained beam search, on the same weights.

    Example: genrecall bench engine --beam 50 --prompt 150
    """
    from genrecall.bench.engine import EngineBench, measure

    config = EngineBench(
        size=size,
        items=items,
        prompt=prompt,
        beam=beam,
        requests=requests,
        repeats=repeats,
        transformers_requests=0 if alone else 2,
        device=device,
    )
    found = measure(config)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    machine = found["hardware"]
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    print(f"{machine['cpu']}, {machine['cores']} cores, {gpus}; commit {machine['commit']}")
    print(f"{found['parameters']:,} parameters, {found['dtype']} on {found['device']}")
    print(f"{items:,} items, {prompt} tokens in, beam {beam}")
    print(f"engine        {found['engine_requests_per_s']:10.2f} requests/s")
    if not alone:
        print(f"transformers  {found['transformers_requests_per_s']:10.2f} requests/s   ratio {found['ratio']:.1f}")


@app.command()
def kernels(
    beam: Annotated[int, typer.Option(help="Beam width W.")] = 300,
    requests: Annotated[int, typer.Option(help="Requests R; R x W rows go through a layer.")] = 8,
    prompt: Annotated[int, typer.Option(help="Tokens a prompt.")] = 150,
    long_prompt: Annotated[int, typer.Option(help="Tokens of the long prompts.")] = 4000,
    items: Annotated[int, typer.Option(help="Items in the catalog.")] = 100_000,
    only: Annotated[str, typer.Option(help="Kernels whose name begins so.")] = "",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time of every kernel beside its torch reference and beside the floor of this device.

    Sizes are those of a decoding step of Qwen2-1.5B. The floor is the larger of bytes over the copy bandwidth and FLOP
    over the matmul rate, both measured in the same run.

    Example: genrecall bench kernels --only attend --beam 50
    """
    from genrecall.bench.kernel_cases import Workload
    from genrecall.bench.kernels import KernelBench, measure

    work = Workload(beam=beam, requests=requests, prompt=prompt, long_prompt=long_prompt, items=items)
    found = measure(KernelBench(workload=work, only=only, device=device))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    machine = found["hardware"]
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    print(f"{machine['cpu']}, {machine['cores']} cores, {gpus}; commit {machine['commit']}; on {found['device']}")
    copy, matmul = found["copy_bytes_per_s"] / 1e12, found["matmul_flop_per_s"] / 1e12
    print(f"{found['implementation']}, {found['dtype']}; copy {copy:.2f} TB/s, matmul {matmul:.1f} TFLOP/s")
    print(f"{'kernel':14s} {'us':>9s} {'reference':>10s} {'floor':>8s} {'share':>6s} {'differs':>8s}  shape")
    for row in found["kernels"]:
        print(
            f"{row['name']:14s} {row['kernel_us']:9.1f} {row['reference_us']:10.1f} {row['floor_us']:8.1f} "
            f"{row['share_of_floor']:6.0%} {row['largest_difference']:8.1e}  {row['shape']}"
        )


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


def _shape(text: str) -> tuple[int, int]:
    from genrecall.errors import ConfigError

    levels, cross, codes = text.lower().partition("x")
    if not (cross and levels.strip().isdigit() and codes.strip().isdigit()):
        raise ConfigError(
            "this is not a shape of SIDs", seen=text, allowed="levels x codes, such as 4x256", fix="write --shape 4x256"
        )
    return int(levels), int(codes)
