"""`genrecall serve`, `genrecall release` and `genrecall keys`: the service, its bundles, who may call it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrecall.cli.options import Device, Redis

if TYPE_CHECKING:
    from collections.abc import Callable

    from genrecall.serve.config import ServeConfig
    from genrecall.serve.gateway import Running
    from genrecall.serve.state.state import State as UserState

release = typer.Typer(help="Change what a running service serves.", no_args_is_help=True)
keys = typer.Typer(help="API keys of the service.", no_args_is_help=True)

State = Annotated[Path | None, typer.Option("--state", help="Events and histories. Default: beside the bundle.")]


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8080,
    grpc_port: Annotated[
        int | None, typer.Option(help="Also speak the Open Inference Protocol over gRPC there; 0 takes a free port.")
    ] = None,
    state: State = None,
    redis: Redis = None,
    catalog: Annotated[
        Path | None, typer.Option(help="Catalog whose histories are taken in. Default: the bundle's own, if beside it.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option("--keys", help="File of API keys (see genrecall keys add).")] = None,
    deadline_ms: Annotated[float, typer.Option(help="Of requests that name none.")] = 250.0,
    beam: Annotated[int | None, typer.Option(min=1, help="Beam width. Default: the bundle's.")] = None,
    max_inflight: Annotated[int, typer.Option(help="Requests at a time; more are refused.")] = 256,
    rate: Annotated[float | None, typer.Option(help="Requests a second of one key. Default: unlimited.")] = None,
    drain_s: Annotated[float, typer.Option(help="How long a stop waits for requests on their way.")] = 30.0,
    weight: Annotated[
        list[str] | None, typer.Option(help="CHANNEL=WEIGHT in the fusion, if the bundle ships none; repeatable.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of the worker. Default: all cores but one.")] = None,
    batch_rows: Annotated[int | None, typer.Option(help="Beams of one batch. Default: about 50 ms of them.")] = None,
    experiments: Annotated[Path | None, typer.Option(help="TOML file of experiments (see genrecall ab).")] = None,
    scenarios: Annotated[
        Path | None, typer.Option(help="TOML file: channels, budgets, fusion and fallbacks of each scenario.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Engine workers; with --device cuda, one a GPU.")] = 1,
    classic_only: Annotated[bool, typer.Option("--classic-only", help="Without the generative channel.")] = False,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM; needs --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let others call without keys.")] = False,
    gateways: Annotated[
        int, typer.Option(min=1, help="Processes that answer requests, in front of the same workers and users.")
    ] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="Services on a Ray cluster, users divided among them.")] = False,
    partitions: Annotated[int, typer.Option(min=1, help="How many of them; with --ray.")] = 2,
    tp: Annotated[int, typer.Option(min=1, help="GPUs that the model is spread over (tensor parallel).")] = 1,
    sequence_tokens: Annotated[
        int, typer.Option(min=0, help="With --tp: share batches of so many prompt tokens by tokens; 0: none.")
    ] = 0,
    all_reduce: Annotated[
        str, typer.Option(help="With --tp, sums between GPUs: auto, library (NCCL), or one_shot, where they reach all.")
    ] = "auto",
    device: Device = "auto",
) -> None:
    """Serve a bundle over HTTP, with a console in the browser, until Ctrl-C or SIGTERM.

    Example: genrecall serve runs/quickstart/bundle --port 8080

    Example: genrecall serve runs/shop/bundle --gateways 4 --max-inflight 1024

    Example: genrecall serve runs/large/bundle --tp 2

    Example: genrecall serve runs/shop/bundle --ray --partitions 4 --host 0.0.0.0 --keys keys.txt
    """
    from genrecall.experiment.assignment import read_layers
    from genrecall.serve import gateway
    from genrecall.serve.config import ServeConfig, worker_threads
    from genrecall.serve.event_loop import event_loop
    from genrecall.serve.scenario import read_scenarios
    from genrecall.serve.worker.config import WorkerConfig

    worker = WorkerConfig(
        device=device, replicas=replicas, threads=threads or worker_threads(device, replicas), batch_rows=batch_rows,
        beam=beam, ranks=tp, sequence_tokens=sequence_tokens, all_reduce=all_reduce,
    )  # fmt: skip
    config = ServeConfig(
        state=state or bundle.resolve().parent / "state",
        redis=redis,
        host=host,
        port=port,
        grpc_port=grpc_port,
        keys=key_file,
        deadline_s=deadline_ms / 1e3,
        max_inflight=max_inflight,
        rate_per_s=rate,
        drain_s=drain_s,
        weights=_weights(weight or []),
        scenarios={} if scenarios is None else read_scenarios(scenarios),
        experiments=() if experiments is None else read_layers(experiments),
        worker=None if classic_only else worker,
        tls=pair(tls_cert, tls_key),
        insecure=insecure,
        gateways=gateways,
    )
    if ray:
        _on_ray(bundle, config, partitions, sys.argv)
        return
    seed = _seeding(bundle, catalog)
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        runner.run(gateway.serve(bundle, config, seed=seed, told=lambda running: _tell(running, config)))


@release.command("status")
def status(state: Annotated[Path, typer.Option("--state", help="Of the running service.")]) -> None:
    """Print which bundle is in which role.

    Example: genrecall release status --state runs/shop/state
    """
    _print(state, "GET", "/admin/releases")


@release.command("stage")
def stage(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    state: Annotated[Path, typer.Option("--state", help="Of the running service.")],
) -> None:
    """Open, check and warm a bundle beside the active one; nobody is answered from it yet.

    Example: genrecall release stage runs/new/bundle --state runs/shop/state
    """
    _print(state, "POST", "/admin/releases/stage", {"bundle": str(bundle.resolve())})


@release.command("canary")
def canary(
    percent: Annotated[float, typer.Argument(min=0, max=100, help="Share of the users.")],
    state: Annotated[Path, typer.Option("--state", help="Of the running service.")],
) -> None:
    """Let the staged bundle answer a share of the users, always the same ones.

    Example: genrecall release canary 5 --state runs/shop/state
    """
    _print(state, "POST", "/admin/releases/canary", {"percent": percent})


@release.command("activate")
def activate(state: Annotated[Path, typer.Option("--state", help="Of the running service.")]) -> None:
    """Let the staged bundle answer everybody; the one before stays warm.

    Example: genrecall release activate --state runs/shop/state
    """
    _print(state, "POST", "/admin/releases/activate", {})


@release.command("rollback")
def rollback(state: Annotated[Path, typer.Option("--state", help="Of the running service.")]) -> None:
    """Drop the staged bundle, or go back to the one before.

    Example: genrecall release rollback --state runs/shop/state
    """
    _print(state, "POST", "/admin/releases/rollback", {})


@release.command("delist")
def delist(
    items: Annotated[list[str], typer.Argument(help="Item ids.")],
    state: Annotated[Path, typer.Option("--state", help="Of the running service.")],
    back: Annotated[bool, typer.Option("--back", help="Take them back in.")] = False,
) -> None:
    """Take items out of all answers at once.

    Example: genrecall release delist 22423 85123A --state runs/shop/state
    """
    _print(state, "POST", "/admin/items/delist", {"item_ids": items, "delisted": not back})


@keys.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Of its holder.")],
    file: Annotated[Path, typer.Option("--file", help="File of key hashes; made if missing.")],
) -> None:
    """Make a key, store its hash, and print the key: it is shown only now.

    Example: genrecall keys add shop-frontend --file keys.txt
    """
    from genrecall.serve.http.keys import add as add_key

    print(add_key(file, name))


def _on_ray(bundle: Path, config: ServeConfig, partitions: int, arguments: list[str]) -> None:
    """Deploy, and stay until a signal; every replica is started with the options that were given here."""
    import signal
    import threading

    from genrecall.errors import ConfigError
    from genrecall.serve.cluster.on_ray import ClusterConfig, start

    if config.tls is not None:
        raise ConfigError(
            "Ray Serve's proxy speaks plain HTTP", seen="--tls-cert with --ray", allowed="one of them",
            fix="let a load balancer in front speak TLS",
        )  # fmt: skip
    cluster = ClusterConfig(
        bundle=bundle,
        state=config.state,
        replicas=partitions,
        host=config.host,
        port=config.port,
        options=_of_replicas(arguments[arguments.index("serve") + 1 :], bundle),
        gpus=1.0 if config.worker is not None and config.worker.device.startswith("cuda") else 0.0,
        inflight=config.max_inflight,
        local_only=config.is_loopback and config.keys is None,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    ray_serve = start(cluster)
    print(f"{partitions} services answer at http://{config.host}:{config.port}/v1/recommend")
    print(f"admin      {config.state}/replica-i/admin.sock  (genrecall release …, for each of them)")
    print("ready; Ctrl-C drains and stops", flush=True)
    stop.wait()
    ray_serve.shutdown()


_OWN = {"--ray": 0, "--insecure": 0, "--partitions": 1, "--host": 1, "--port": 1, "--state": 1}
"""Options that are the front's own, and how many values follow."""


def _of_replicas(arguments: list[str], bundle: Path) -> tuple[str, ...]:
    """What of the command line every replica is started with."""
    kept: list[str] = []
    skip = 0
    for argument in arguments:
        name, given, _ = argument.partition("=")
        if skip:
            skip -= 1
        elif name in _OWN:
            skip = 0 if given else _OWN[name]
        elif argument != str(bundle):
            kept.append(argument)
    return tuple(kept)


def _seeding(bundle: Path, given: Path | None) -> Callable[[UserState], int]:
    """Takes in the histories of the catalog given, or of the bundle's own run where that lies beside it."""
    from genrecall.artifacts import open_artifact
    from genrecall.catalog.store import KIND, Catalog
    from genrecall.errors import ArtifactError

    manifest = open_artifact(bundle, kind="bundle", verify=False).manifest
    path = given or bundle.resolve().parent / "catalog"
    if given is None:
        try:
            own = open_artifact(path, kind=KIND, verify=False).digest == manifest.parents["catalog"]
        except ArtifactError:
            own = False
        if not own:
            return lambda state: 0
    return lambda state: state.seed(Catalog.load(path), manifest.config["split"].get("tie_seed"))


def _tell(running: Running, config: ServeConfig) -> None:
    from rich.console import Console
    from rich.table import Table

    service, active = running.service, running.service.releases.active
    assert active is not None
    counts, worker = service.state.counts(), active.worker
    rows = [
        ("bundle", f"{active.digest[:19]}…  {len(active.contents.items):,} items", ""),
        (
            "channels",
            ", ".join(active.lanes),
            f"fusion: {active.fusion(active.chosen(None, search=False)).config.method}",
        ),
        ("users", f"{counts['users']:,} with a history", f"{running.seeded_users:,} taken in now"),
        ("deadline", f"{config.deadline_s * 1e3:.0f} ms", "--deadline-ms, or deadline_ms of a request"),
        ("requests at a time", f"{config.max_inflight}", "--max-inflight"),
        ("rate of a key", "unlimited" if config.rate_per_s is None else f"{config.rate_per_s:g}/s", "--rate"),
        ("gateways", f"{config.gateways}", "--gateways; requests at a time are divided among them"),
        ("body", f"{config.max_body_bytes >> 10} KiB", ""),
        ("keys", "none: this machine only" if config.keys is None else str(config.keys), "--keys"),
    ]
    if worker is not None and worker.facts is not None:
        cost = worker.lanes[0].cost
        one = cost.seconds(active.beam, active.beam) * 1e3
        rows += [
            ("device", worker.facts.device, f"{worker.config.replicas} x {worker.config.threads} threads; --replicas"),
            ("beam", f"{active.beam}", f"one search takes {one:.1f} ms"),
            (
                "rows of a batch",
                f"{cost.batch_rows(active.beam)}",
                f"measured: {cost.base_s * 1e3:.1f} ms a batch and {cost.row_s * 1e6:.1f} µs a row",
            ),
        ]
    table = Table("", "value", "how to change, or why", box=None)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"\nconsole    {running.url}/\napi        {running.url}/v1/recommend")
    if running.grpc_port is not None:
        console.print(f"grpc       {config.host}:{running.grpc_port}  inference.GRPCInferenceService")
    console.print(f"health     {running.url}/health/ready\nadmin      {running.admin}  (genrecall release …)")
    console.print("\nready; Ctrl-C drains and stops", soft_wrap=True)


def pair(cert: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Certificate and key, or neither."""
    from genrecall.errors import ConfigError

    if cert is not None and key is not None:
        return cert, key
    if cert is None and key is None:
        return None
    raise ConfigError(
        "TLS needs two files", seen="one of them", allowed="--tls-cert and --tls-key, or neither", fix="give both"
    )


def _weights(pairs: list[str]) -> dict[str, float]:
    from genrecall.errors import ConfigError

    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(
                "--weight cannot be read", seen=pair, allowed="CHANNEL=NUMBER", fix="for example --weight generative=2"
            ) from None
    return found


def _print(state: Path, method: str, path: str, body: dict[str, Any] | None = None) -> None:
    """What a running service answers."""
    from genrecall.serve.admin_client import ask

    print(json.dumps(ask(state, method, path, body), indent=2))
