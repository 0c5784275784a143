"""What typer refuses by itself, such as an option that there is not, in the four parts of all our errors."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from genrecall.errors import ConfigError

_UsageError: Any = typer.BadParameter.__mro__[1]  # typer exports no other name of it


class FourParts(TyperGroup):
    """The command `genrecall`, with all verbs below it."""

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """See ``TyperGroup``; reads what stands before the verb."""
        with _four_parts():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: Any) -> Any:
        """See ``TyperGroup``; reads the rest, and runs the verb."""
        with _four_parts():
            return super().invoke(ctx)


@contextmanager
def _four_parts() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # no error: typer prints its help
            raise
        verb = error.ctx.command_path if error.ctx else "genrecall"
        raise ConfigError(
            error.format_message().rstrip("."),
            seen=shlex.join(["genrecall", *sys.argv[1:]]),
            allowed=f"what `{verb} --help` lists",
            fix="correct the command line",
        ) from None
