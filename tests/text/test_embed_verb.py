from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from tests import synthetic
from typer.testing import CliRunner

from genrecall.catalog.sources.open import open_source
from genrecall.catalog.store import import_catalog
from genrecall.cli.embed import command
from genrecall.cli.sid import app as sid_app
from genrecall.errors import ArtifactError, ConfigError

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


def test_sids_are_not_built_of_other_texts(bert_directory: Path, tmp_path: Path) -> None:
    tables, run = synthetic.tables(users=8, items=16), tmp_path / "run"

    def imported(titles: list[str], events: int) -> None:
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        pq.write_table(pa.table({"item_id": tables["items"]["item_id"], "title": titles}), source / "items.parquet")
        pq.write_table(tables["events"].slice(0, events), source / "events.parquet")
        import_catalog(open_source(source), run / "catalog")

    def invoke(verb: typer.Typer, *options: str) -> None:
        CliRunner().invoke(verb, [*options, "--run", str(run), "--device", "cpu"], catch_exceptions=False)

    titles = tables["items"]["title"].to_pylist()
    imported(titles, 90)
    invoke(app, "--encoder", str(bert_directory))
    build = ("build", "--codes", "4", "--quantizer", "rq_kmeans")
    invoke(sid_app, *build)
    imported(titles, 80)  # other events: the vectors are still those of the texts
    invoke(sid_app, *build)
    imported(["something else", *titles[1:]], 80)
    for verb in (build, ("compare",)):
        with pytest.raises(ArtifactError, match="other texts"):
            invoke(sid_app, *verb)


@pytest.mark.parametrize("options", [["--ids", "x"], ["--vectors", "v.npy", "--encoder", "minilm"]])
def test_contradicting_options_are_refused(options: list[str]) -> None:
    with pytest.raises(ConfigError, match="contradict"):
        CliRunner().invoke(app, options, catch_exceptions=False)


def test_help_shows_an_example() -> None:
    assert "Example: genrecall embed" in CliRunner().invoke(app, ["--help"]).stdout
