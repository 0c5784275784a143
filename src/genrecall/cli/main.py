"""The command `genrecall`: one verb a file, errors in four lines, data on standard output."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from importlib.util import find_spec

import typer

from genrecall.cli import (
    ab,
    batch,
    bench,
    bundle,
    chaos,
    data,
    doctor,
    embed,
    engine,
    evaluate,
    fuse,
    graph,
    plan,
    quickstart,
    rank,
    recommend,
    refresh,
    run,
    serve,
    sid,
    train,
)
from genrecall.cli.usage import FourParts
from genrecall.errors import DependencyError, GenrecallError

app = typer.Typer(
    name="genrecall",
    cls=FourParts,
    help="Generative retrieval: a language model writes the items, through semantic IDs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("quickstart")(quickstart.command)
app.add_typer(data.app, name="data")
app.command("embed")(embed.command)
app.add_typer(sid.app, name="sid")
app.command("train")(train.command)
app.command("run")(run.command)
app.command("export")(bundle.export)
app.command("load")(bundle.load)
app.command("fuse")(fuse.command)
app.add_typer(bundle.app, name="bundle")
app.command("eval")(evaluate.command)
app.command("report")(evaluate.report)
app.add_typer(rank.app, name="rank")
app.command("recommend")(recommend.command)
app.command("refresh")(refresh.command)
app.command("serve")(serve.command)
app.command("chaos")(chaos.command)
app.command("batch")(batch.command)
app.add_typer(serve.release, name="release")
app.add_typer(serve.keys, name="keys")
app.add_typer(ab.app, name="ab")
app.add_typer(engine.app, name="engine")
app.add_typer(graph.app, name="graph")
app.add_typer(bench.app, name="bench")
app.command("plan")(plan.command)
app.command("doctor")(doctor.command)


def main() -> None:
    """Entry point: run the verb, print our errors without a traceback."""
    # OpenMP threads that wait for each other spin; where another process wants a core too, that is 25 times slower than
    # waiting a little and then sleeping (measured: 1.5k against 15k tokens/s busy, 42k against 40k idle). Read at load.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except KeyboardInterrupt:  # before the verb began: while it runs, click ends it alike
        sys.exit(130)
    except OSError as error:
        _fail(
            GenrecallError(
                "a file cannot be read or written",
                seen=f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""),
                allowed="paths that exist and that this user may read or write",
                fix="correct the path, or its permissions",
            )
        )
    except ModuleNotFoundError as error:
        extra = _extra_with(error.name or "")
        if extra is None:
            raise
        _fail(DependencyError(error.name or "", extra=extra, purpose="this command"))
    except GenrecallError as error:
        _fail(error)


def _extra_with(module: str) -> str | None:
    """The first extra that brings a package of this name; None: it is not one that may be missing, or it is there."""
    if find_spec(module.partition(".")[0]) is not None:
        return None
    try:
        required = metadata.requires("genrecall") or ()
    except metadata.PackageNotFoundError:  # run from its sources
        return None
    for line in required:
        if found := re.match(r"([\w-]+).*extra == ['\"](\w+)", line):
            name, extra = found.groups()
            if name.replace("-", "_").lower() == module.partition(".")[0]:
                return extra
    return None


def _fail(error: GenrecallError) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
