"""`genrecall plan`: how many GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genrecall.cli.options import AsJson


def command(
    users: Annotated[int, typer.Option(min=1, help="Whose prompts might be kept.")],
    qps: Annotated[float, typer.Option(help="Requests a second at the peak.")],
    beam: Annotated[int, typer.Option(min=1, help="Beam width.")] = 50,
    history: Annotated[int, typer.Option(min=1, help="Items that a prompt shows.")] = 35,
    words: Annotated[int, typer.Option(min=0, help="Tokens of a prompt beside its items.")] = 10,
    slo_ms: Annotated[float, typer.Option(help="p99 that must be kept.")] = 100.0,
    shape: Annotated[str, typer.Option(help="Of the model, as in genrecall bench engine.")] = "qwen2-1.5b",
    layout: Annotated[str, typer.Option(help="Levels x codes of the SIDs.")] = "4x256",
    precision: Annotated[str, typer.Option(help="bf16, fp8, int8 or fp32.")] = "bf16",
    prompt_kv: Annotated[str, typer.Option(help="Of kept prompts: bf16 or fp8.")] = "bf16",
    tp: Annotated[int, typer.Option(min=1, help="GPUs that share one model.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="The most requests of a batch.")] = 32,
    gpu: Annotated[str, typer.Option(help="h200, h100, a100, l40s or l4.")] = "h100",
    measured: Annotated[
        Path | None,
        typer.Option(help="What `genrecall bench engine --json` (or `bench kernels --json`) printed on this GPU."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """GPUs, memory, kept prompts and expected p99 of a service.

    With --measured of `bench engine`, batches take what they took there, and the plan is checked against the waits in
    the same file. Without, it is a bound from the maker's data sheet, and says so.

    Example: genrecall plan --users 1000000 --qps 500 --beam 50 --history 35

    Example: genrecall plan --users 1000000 --qps 500 --measured results.json
    """
    from genrecall.bench.plan.capacity import Demand, plan
    from genrecall.cli.bench import _shape

    levels, codes = _shape(layout)
    found = plan(
        Demand(
            users=users, qps=qps, beam=beam, history=history, words=words, slo_ms=slo_ms, shape=shape, levels=levels,
            codes=codes, precision=precision, prompt_kv=prompt_kv, ranks=tp, batch=batch, gpu=gpu, measured=measured,
        )
    )  # fmt: skip
    if as_json:
        print(json.dumps(found, indent=2))
        return
    best, expected = found["highest_rate_of_a_replica"], found["expected"]
    memory, kept = found["memory_gb_a_gpu"], found["kept_prompts"]
    bound = found["basis"]["kind"] == "bound"
    print(f"rests on    {found['basis']['said']}")
    print(f"request     {found['prompt_tokens']} tokens, {found['token_rows_a_request']} token rows; "
          f"alone {found['one_request_alone_ms']:.1f} ms")  # fmt: skip
    print(f"a replica   {best['rate']:.1f} requests/s with a p99 of {best['p99_ms']:.0f} ms ({best['busy']:.0%} busy)")
    parts = f" ({found['replicas']} replicas of {tp})" if tp > 1 else ""
    print(f"GPUs        {'at least ' if bound else ''}{found['gpus']}{parts}; "
          f"at {qps:g}/s p50 {expected['p50_ms']:.0f} ms, p99 {expected['p99_ms']:.0f} ms")  # fmt: skip
    print(f"memory      {memory['of']:.0f} GB a GPU ({found['basis']['memory_of']}): "
          f"weights {memory['weights']:.1f}, embedding {memory['embedding']:.1f}, beams {memory['beams']:.1f}, "
          f"prompts {memory['prompts']:.1f}")  # fmt: skip
    print(f"prompts     {kept['mb_a_user']:.1f} MB a user; {kept['users_on_gpus']:,} users "
          f"({kept['share_on_gpus']:.1%}) on the GPUs, {kept['gb_for_the_others']:,.0f} GB for the others")  # fmt: skip
    print(f"a hit       saves {kept['saved_ms_a_hit']:.1f} ms; fetching a prompt from elsewhere pays above "
          f"{kept['fetching_pays_above_gb_per_s']:.1f} GB/s")  # fmt: skip
    for row in found.get("checked", []):
        print(f"checked     beam {row['beam']} at {row['rate']:.1f}/s: p99 predicted {row['predicted_p99_ms']:.1f} ms, "
              f"measured {row['measured_p99_ms']:.1f} ms")  # fmt: skip
