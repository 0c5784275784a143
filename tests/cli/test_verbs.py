"""The verbs as a user types them: exit codes, four-part errors, JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genrecall.cli.main import app
from genrecall.errors import GenrecallError

runner = CliRunner()
VERBS = (
    ["quickstart"], ["data", "import"], ["data", "validate"], ["embed"], ["sid", "build"], ["sid", "inspect"],
    ["sid", "append"], ["train"], ["export"], ["fuse"], ["load"], ["eval"], ["recommend"], ["doctor"],
    ["bench", "engine"], ["bench", "serve"],
    ["serve"], ["release", "stage"], ["release", "delist"], ["keys", "add"], ["batch"], ["chaos"], ["ab", "report"],
    ["ab", "simulate"],
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_with_an_example(verb: list[str]) -> None:
    result = runner.invoke(app, [*verb, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "Example: genrecall" in result.output


def test_help_is_quick_and_loads_no_torch() -> None:
    code = "import sys, genrecall.cli.main; print('torch' in sys.modules, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_errors_are_four_lines_and_exit_with_2() -> None:
    done = subprocess.run([sys.executable, "-m", "genrecall", "load", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: there is no artifact at nowhere")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["seen", "allowed", "do"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "--users", "0"], "'--users'"),
        (["bench", "engine", "--foo", "1"], "--foo"),
        (["sid", "nope"], "nope"),
        (["load"], "Missing argument"),
        (["--foo"], "--foo"),
    ],
)
def test_what_typer_refuses_has_four_parts_too(arguments: list[str], words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "genrecall", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert lines[1] == "  seen:    genrecall " + " ".join(arguments)
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["seen", "allowed", "do"]


def test_a_service_needs_a_beam() -> None:
    done = subprocess.run([sys.executable, "-m", "genrecall", "serve", "none", "--beam", "0"], capture_output=True)
    assert done.returncode == 2
    assert b"--beam" in done.stderr


def test_a_missing_extra_is_an_error_in_four_lines() -> None:
    code = (
        "import sys; sys.modules['msgspec'] = None; sys.argv = ['genrecall', 'bench', 'rank', '--shape', 'tiny']\n"
        "from genrecall.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: this command needs the package msgspec")
    assert "pip install 'genrecall[serve]'" in done.stderr


def test_recommend_for_a_user(run: Path) -> None:
    result = runner.invoke(app, ["recommend", "--run", str(run), "--user", "u3", "-k", "4", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert len(found["items"]) == 4
    assert found["channel"] == "generative"
    assert found["profile"] == {"country": "France"}
    shown = [item["item_id"] for item in found["history"]]
    assert 3 <= len(shown) == len(set(shown)) < 8  # as trained: only the first event on each item
    assert not {item["item_id"] for item in found["items"]} & {item["item_id"] for item in found["history"]}


def test_recommend_explains(run: Path) -> None:
    result = runner.invoke(app, ["recommend", "--run", str(run), "--history", "i3", "-k", "4", "--explain"])
    assert result.exit_code == 0, result.output
    for words in ("history: 1 items", "level 0:", "level 1:", "valid codes follow", "complete"):
        assert words in result.output
    as_json = runner.invoke(app, ["recommend", "--run", str(run), "--history", "i3", "--explain", "--json"])
    assert len(json.loads(as_json.stdout)["levels"]) == 2


def test_an_unknown_user_is_a_cold_start(run: Path) -> None:
    result = runner.invoke(app, ["recommend", "--run", str(run), "--user", "nobody", "-k", "4", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["channel"] == "popularity"
    assert found["notes"][0] == "unknown user nobody"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--history", "i3", "-k", "41"], "more items are asked for"),
        (["--history", "i333"], "not in this bundle"),
        (["--user", "u1", "--history", "i3"], "not clear for whom"),
        ([], "not clear for whom"),
        (["--user", "u1", "--profile", "country"], "--profile cannot be read"),
        (["--search", "candle"], "not trained on searches"),
    ],
)
def test_recommend_refuses(run: Path, arguments: list[str], words: str) -> None:
    result = runner.invoke(app, ["recommend", "--run", str(run), *arguments])
    assert isinstance(result.exception, GenrecallError)
    assert words in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "--window", "3"], "settings of their own"),
        (["export", "--transition", "auto", "--decay", "0.9"], "settings of their own"),
        (["run", "--items", "none", "--events", "none", "--beside", "hstu,foo"], "no such baselines"),
        (["bench", "kernels", "--only", "foo", "--device", "cpu"], "no kernel has such a name"),
    ],
)
def test_options_that_would_do_nothing_are_refused(run: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    where = {"export": ["--run", str(run), "--out", str(tmp_path / "out")], "run": ["--out", str(tmp_path / "out")]}
    result = runner.invoke(app, [*arguments, *where.get(arguments[0], [])])
    assert isinstance(result.exception, GenrecallError)
    assert words in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_unreadable_path_is_an_error_in_four_lines(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    for arguments in (
        ["load", str(tmp_path / "file")],
        ["export", "--run", str(run), "--out", str(tmp_path / "file")],
        ["eval", "--run", str(run), "--cases", "5", "--out", str(tmp_path / "file")],
    ):
        done = subprocess.run([sys.executable, "-m", "genrecall", *arguments], capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        for part in ("error: ", "seen: ", "allowed: ", "do: "):
            assert part in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lora", "8"],
        ["--size", "tiny", "--backbone", "somewhere"],
        ["--size", "huge"],
        ["--normalise", "vocabulary"],
        ["--learning-rate", "0"],
    ],
)
def test_train_refuses(run: Path, arguments: list[str]) -> None:
    result = runner.invoke(app, ["train", "--run", str(run), *arguments])
    assert isinstance(result.exception, GenrecallError)


def test_load_prints_the_digest(run: Path) -> None:
    result = runner.invoke(app, ["load", str(run / "bundle"), "--json"])
    assert result.exit_code == 0, result.output
    manifest = json.loads((run / "bundle" / "manifest.json").read_text())
    assert json.loads(result.stdout)["digest"] == manifest["digest"]


def test_eval_writes_its_reports(run: Path, tmp_path: Path) -> None:
    result = runner.invoke(app, ["eval", "--run", str(run), "--cases", "20", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "eval.json").read_text())
    assert set(found["metrics"]["generative"]["recall@10"]) == {"mean", "low", "high"}
    assert "<html" in (tmp_path / "eval.html").read_text()
    assert "generative" in (tmp_path / "eval.md").read_text()
    assert "20 validation cases" in found["protocol"]["sentence"]
    assert not (run / "test-readings.jsonl").exists()


def test_the_test_part_needs_final_and_is_recorded(run: Path, tmp_path: Path) -> None:
    for name in ("catalog", "bundle"):
        (tmp_path / name).symlink_to(run / name)
    arguments = ["eval", "--run", str(tmp_path), "--cases", "20", "--final", "--json"]
    for count in (1, 2):
        result = runner.invoke(app, [*arguments, "--out", str(tmp_path / f"out{count}")])
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert "20 final test cases" in found["protocol"]["sentence"]
        assert found["protocol"]["readings"] == count
    lines = [json.loads(line) for line in (tmp_path / "test-readings.jsonl").read_text().splitlines()]
    assert [line["bundle"] for line in lines] == [found["bundle"]] * 2
    assert "This test split was read 2 times." in (tmp_path / "out2" / "eval.md").read_text()


def test_report_merges_seeds(run: Path, tmp_path: Path) -> None:
    for seed in range(2):
        out = tmp_path / f"s{seed}"
        assert runner.invoke(app, ["eval", "--run", str(run), "--cases", "20", "--out", str(out)]).exit_code == 0
        told = json.loads((out / "eval.json").read_text())
        (out / "eval.json").write_text(json.dumps({**told, "bundle": f"sha256:{seed}"}))
    page = runner.invoke(app, ["report", str(tmp_path / "s0"), str(tmp_path / "s1")])
    assert page.exit_code == 0, page.output
    assert "channels x 2 seeds" in page.stdout
    out = tmp_path / "all"
    result = runner.invoke(app, ["report", str(tmp_path / "s0"), str(tmp_path / "s1"), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["metrics"]["generative"]["recall@10"]["sd"] == 0
    assert {file.name for file in out.iterdir()} == {"report.json", "report.npz", "report.md", "report.html"}


def test_doctor_names_what_there_is() -> None:
    result = runner.invoke(app, ["doctor", "--json"])
    found = {line["what"]: line for line in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert found["core: torch"]["state"] == "ok"
    assert "kernel paged_attention" in found
    assert "kernel trie_select" in found
    assert all(line["fix"] for line in found.values() if line["state"] == "missing")
