"""Options that several verbs share, word for word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from genrecall.recipes.recipe import SplitConfig

RUN = Path("runs/default")

Run = Annotated[Path, typer.Option("--run", "-r", help="Run directory that holds the artifacts.")]
CatalogPath = Annotated[Path | None, typer.Option("--catalog", help="Catalog artifact. Default: RUN/catalog.")]
SidPath = Annotated[Path | None, typer.Option("--sid", help="SID artifact. Default: RUN/sid.")]
ModelPath = Annotated[Path | None, typer.Option("--model", help="Model artifact. Default: RUN/model.")]
BundlePath = Annotated[Path | None, typer.Option("--bundle", help="Bundle. Default: RUN/bundle.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N.")]
Force = Annotated[bool, typer.Option("--force", help="Do it even if the result is current.")]
Redis = Annotated[
    str | None,
    typer.Option(
        "--redis", envvar="GENRECALL_REDIS", help="URL of a Redis for events and histories of several gateways."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

SplitRule = Annotated[
    str, typer.Option("--split", help="leave_one_out, temporal, or source (the events' own column split).")
]
Repeats = Annotated[
    str, typer.Option("--repeats", help="first: only a user's first event on an item counts; keep: all events.")
]
TieSeed = Annotated[
    int, typer.Option("--tie-seed", help="Shuffles events of equal time; -1 keeps the order of the file.")
]


def split_config(rule: str, repeats: str, tie_seed: int) -> SplitConfig:
    """The split that these options name."""
    from genrecall.recipes.recipe import SplitConfig

    chosen: Any = {"rule": rule, "repeats": repeats}  # checked by SplitConfig
    return SplitConfig(**chosen, tie_seed=None if tie_seed < 0 else tie_seed)


def count_of(text: str) -> int:
    """12, 100k or 10M.

    Raises:
        ConfigError: anything else.
    """
    from genrecall.errors import ConfigError

    text = text.strip()
    digits, factor = (text[:-1], {"k": 1_000, "M": 1_000_000}[text[-1]]) if text[-1:] in ("k", "M") else (text, 1)
    if not digits.isdigit():
        raise ConfigError(
            "this is not a size", seen=text, allowed="whole numbers such as 50, 100k or 10M; several with commas where "
            "the option says so; a layout is written 4x256", fix="correct it",
        )  # fmt: skip
    return int(digits) * factor
