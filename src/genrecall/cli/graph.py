"""`genrecall graph`: generative recall inside TensorFlow graphs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from genrecall.graph.server.model import Model

app = typer.Typer(help="Put generative recall into TensorFlow graphs, and serve them.", no_args_is_help=True)


@app.command()
def build(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the SavedModel.")],
    engine: Annotated[list[str], typer.Option(help="Socket of an engine (genrecall engine serve); repeatable.")],
    between: Annotated[
        str | None, typer.Option(help="FILE.py:FUNCTION: your operators between recall and response.")
    ] = None,
    ranker: Annotated[Path | None, typer.Option(help="Ranker directory. Default: the bundle's own, if any.")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Items that the ranker orders.")] = 100,
    window_days: Annotated[float | None, typer.Option(help="Leave out older events. Default: all count.")] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Events come in any order: sort them by time.")] = False,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="Let items of the history come back.")] = False,
    k: Annotated[int, typer.Option("-k", min=1, help="Items of requests that name no k.")] = 10,
    deadline_ms: Annotated[float, typer.Option(help="Of requests that name none.")] = 250.0,
) -> None:
    """Write a SavedModel that turns histories into lists: features, generative recall, ranking, your operators.

    Example: genrecall graph build runs/quickstart/bundle --engine /tmp/engine.sock --output runs/quickstart/graph
    """
    from genrecall.graph.build import GraphConfig, between_of
    from genrecall.graph.build import build as build_graph
    from genrecall.graph.ops import Window

    window = Window(window_s=0 if window_days is None else round(window_days * 86_400), sort=sort)
    config = GraphConfig(
        engines=engine,
        window=window,
        exclude_seen=not keep_seen,
        k=k,
        deadline_ms=deadline_ms,
        candidates=candidates,
    )
    operators = None if between is None else between_of(between)
    made = build_graph(bundle, output, config, between=operators, ranker=ranker)
    print(f"{made.path}  {made.digest[:19]}…  bundle {made.manifest.parents['bundle'][:19]}…")


@app.command()
def serve(
    graph: Annotated[list[str], typer.Argument(help="Directories of graphs, or NAME=DIRECTORY.")],
    engine: Annotated[list[str] | None, typer.Option(help="Socket of an engine, in place of the graph's own.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8501,
    key_file: Annotated[Path | None, typer.Option("--keys", help="File of API keys (see genrecall keys add).")] = None,
    max_inflight: Annotated[int, typer.Option(min=1, help="Requests at a time; more are refused.")] = 64,
    rate: Annotated[float | None, typer.Option(help="Requests a second of one key. Default: unlimited.")] = None,
    drain_s: Annotated[float, typer.Option(help="How long a stop waits for requests on their way.")] = 30.0,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM; needs --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let others call without keys.")] = False,
) -> None:
    """Serve graphs as TensorFlow Serving's REST API and as the Open Inference Protocol, until Ctrl-C or SIGTERM.

    Example: genrecall graph serve recall=runs/quickstart/graph --port 8501
    """
    from genrecall.cli.serve import pair
    from genrecall.graph.server import app as server
    from genrecall.serve.config import ServeConfig

    config = ServeConfig(
        state=Path(),
        host=host,
        port=port,
        keys=key_file,
        max_inflight=max_inflight,
        rate_per_s=rate,
        drain_s=drain_s,
        worker=None,
        tls=pair(tls_cert, tls_key),
        insecure=insecure,
    )
    asyncio.run(server.serve(_named(graph), config, engines=engine or [], told=_tell))


@app.command()
def ops() -> None:
    """Compile the operators for the installed TensorFlow, if need be, and print the library's path.

    For programs without genrecall: tf.load_op_library(path), then tf.saved_model.load(directory).

    Example: genrecall graph ops
    """
    from genrecall.graph.library import library_path

    print(library_path())


def _named(written: list[str]) -> dict[str, Path]:
    from genrecall.errors import ConfigError

    found: dict[str, Path] = {}
    for one in written:
        name, equals, path = one.partition("=")
        place = Path(path if equals else one)
        name = name if equals else place.resolve().name
        if name in found:
            raise ConfigError(
                "two graphs have one name", seen=name, allowed="distinct names", fix="write NAME=DIRECTORY for one"
            )
        found[name] = place
    return found


def _tell(url: str, models: dict[str, Model]) -> None:
    for name, model in models.items():
        print(f"{name}  {model.version[:19]}…  engines {', '.join(model.engines)}")
        print(f"  POST {url}/v1/models/{name}:predict   POST {url}/v2/models/{name}/infer")
    print("ready; Ctrl-C drains and stops", flush=True)
