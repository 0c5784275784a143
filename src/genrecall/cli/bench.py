"""`genrecall bench`: figures that anyone can measure again."""

from __future__ import annotations

import json
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
