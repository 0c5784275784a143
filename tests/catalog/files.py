"""Small input files for the tests of the import."""

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from typer.testing import CliRunner

from genrecall.cli.data import app
from genrecall.errors import GenrecallError

ITEMS = {"item_id": ["a", "b", "c", "d"], "title": ["Red cup", "Blue cup", "Green cup", "Tea pot"]}
EVENTS = {
    "user_id": ["u", "u", "u", "v", "v", "v"],
    "item_id": ["a", "b", "c", "a", "c", "d"],
    "timestamp": [10, 20, 30, 11, 22, 33],
}
NOW = int(time.time())


def put(path: Path, **columns) -> Path:
    table = pa.table(columns)
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def shop(directory: Path, items=None, events=None, **tables) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    put(directory / "items.parquet", **(items or ITEMS))
    put(directory / "events.parquet", **(events or EVENTS))
    for name, columns in tables.items():
        put(directory / f"{name}.parquet", **columns)
    return directory


def run(*arguments) -> tuple[int, str, str]:
    """Exit status, standard output and the error text that `genrecall data …` ends with."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, GenrecallError):
        return result.exception.exit_code, result.stdout, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.output
