from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from tests import synthetic
from typer.testing import CliRunner

from genrecall.catalog.sources.open import open_source
from genrecall.catalog.store import import_catalog
from genrecall.cli.embed import command
from genrecall.errors import ConfigError

app = typer.Typer()
app.command()(command)


def test_verb_writes_vectors_and_skips_when_current(bert_directory: Path, tmp_path: Path) -> None:
    source = synthetic.write(tmp_path / "source", users=8, items=16)
    run = tmp_path / "run"
    import_catalog(open_source(source), run / "catalog")
    options = ["--run", str(run), "--encoder", str(bert_directory), "--device", "cpu", "--json"]
    first = CliRunner().invoke(app, options, catch_exceptions=False)
    report = json.loads(first.stdout)
    assert first.exit_code == 0
    assert (report["items"], report["dim"], report["template"]) == (16, 32, "{title}")
    again = CliRunner().invoke(app, options, catch_exceptions=False)
    assert json.loads(again.stdout)["digest"] == report["digest"]
    assert "nothing to do" in again.stderr


@pytest.mark.parametrize("options", [["--ids", "x"], ["--vectors", "v.npy", "--encoder", "minilm"]])
def test_contradicting_options_are_refused(options: list[str]) -> None:
    with pytest.raises(ConfigError, match="contradict"):
        CliRunner().invoke(app, options, catch_exceptions=False)


def test_help_shows_an_example() -> None:
    assert "Example: genrecall embed" in CliRunner().invoke(app, ["--help"]).stdout
