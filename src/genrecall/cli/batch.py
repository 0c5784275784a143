"""`genrecall batch`: recommendations for every user of a catalog."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from genrecall.cli.options import Device


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    catalog: Annotated[Path, typer.Option(help="Catalog artifact whose users are asked for.")],
    out: Annotated[Path, typer.Option(help="Where the shards go.")],
    k: Annotated[int, typer.Option("-k", help="Items a user.")] = 10,
    with_seen: Annotated[bool, typer.Option("--with-seen", help="Also recommend items of the history.")] = False,
    shard_users: Annotated[int, typer.Option(help="Users of one shard.")] = 4096,
    batch_users: Annotated[int, typer.Option(help="Users that are asked for at once.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine, or actors of the Ray cluster.")] = 1,
    runner: Annotated[
        str, typer.Option(help="local, or ray: actors of a Ray cluster that shares the file system.")
    ] = "local",
    device: Device = "auto",
) -> None:
    """Write Parquet shards of recommendations; run it again to go on where it stopped.

    Several machines may run the same command over one directory: each shard is done by exactly one of them, and the
    output does not depend on who did what, or who was killed.

    Example: genrecall batch runs/shop/bundle --catalog runs/shop/catalog --out runs/shop/lists --workers 2

    Example: genrecall batch runs/shop/bundle --catalog runs/shop/catalog --out runs/shop/lists --runner ray --workers 8
    """
    from genrecall.errors import ConfigError
    from genrecall.serve.batch.run import BatchConfig, run_batch
    from genrecall.telemetry import log

    if runner not in ("local", "ray"):
        raise ConfigError("no such runner", seen=runner, allowed="local, ray", fix="choose another --runner")

    config = BatchConfig(k=k, exclude_seen=not with_seen, shard_users=shard_users, batch_users=batch_users)
    if runner == "ray":
        from genrecall.serve.batch.on_ray import run_on_ray

        done = run_on_ray(bundle, catalog, out, config, actors=workers, device=device)
        print(f"{'complete' if done else 'others are still at work'}  {out}")
        return
    helpers = [
        subprocess.Popen([sys.executable, "-m", "genrecall", *_alone(sys.argv[1:])], env=os.environ)
        for _ in range(workers - 1)
    ]
    done = run_batch(bundle, catalog, out, config, device=device)
    failed = [helper.wait() for helper in helpers if helper.wait() != 0]
    done = run_batch(bundle, catalog, out, config, device=device) if helpers and not done else done
    if failed:
        log(f"{len(failed)} of {len(helpers)} helping processes ended with an error")
    print(f"{'complete' if done else 'others are still at work'}  {out}")


def _alone(arguments: list[str]) -> list[str]:
    """The same command line for one process."""
    kept, skip = [], False
    for argument in arguments:
        if skip or argument.startswith("--workers="):
            skip = False
        elif argument == "--workers":
            skip = True
        else:
            kept.append(argument)
    return kept
