"""The command `genrecall`: one verb a file, errors in four lines, data on standard output."""

from __future__ import annotations

import sys

import typer

from genrecall.errors import GenrecallError

app = typer.Typer(
    name="genrecall",
    help="Generative retrieval: a language model writes the items, through semantic IDs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Entry point: run the verb, print our errors without a traceback."""
    try:
        app()
    except GenrecallError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
