"""The service's verbs as a user types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genrecall.cli.main import app
from genrecall.errors import ConfigError
from genrecall.experiment.exposure import Exposure, ExposureLog
from genrecall.serve.arms import FILE
from genrecall.serve.chaos.scenarios import SCENARIOS
from genrecall.serve.schema import Event
from genrecall.serve.state.store import UserState
from tests.serve.process import Served

runner = CliRunner()


def test_a_key_is_shown_once_and_stored_as_a_hash(tmp_path: Path) -> None:
    result = runner.invoke(app, ["keys", "add", "shop", "--file", str(tmp_path / "keys")])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() not in (tmp_path / "keys").read_text()
    refused = runner.invoke(app, ["keys", "add", "no spaces", "--file", str(tmp_path / "keys")])
    assert isinstance(refused.exception, ConfigError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["release", "status", "--state", "nowhere"],
        ["serve", "nowhere", "--tls-cert", "only-one.pem"],
        ["serve", "nowhere", "--host", "0.0.0.0"],
        ["serve", "nowhere", "--weight", "generative"],
        ["ab", "simulate", "--effect", "nan"],
        ["ab", "simulate", "--effect", "-2"],
        ["ab", "simulate", "--ope", "--effect", "1.5"],
        ["ab", "simulate", "--users", "100", "--looks", "1000"],
        ["plan", "--users", "1", "--qps", "nan"],
        ["plan", "--users", "1", "--qps", "inf"],
        ["plan", "--users", "1", "--qps", "5", "--slo-ms", "nan"],
        ["plan", "--users", "1", "--qps", "5", "--history", "1000000"],
        ["plan", "--users", "1", "--qps", "5", "--tp", "7"],
        ["chaos", "--run", "medium"],
        ["bench", "serve", "http://127.0.0.1:9"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_what_cannot_be_done_is_refused_in_four_parts(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert isinstance(result.exception, ConfigError), result.output
    assert len(str(result.exception).splitlines()) == 4


def test_a_report_on_no_service_makes_none(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text("[x.arms.a]\nshare = 0.5\n")
    for verb in (["report", str(tmp_path / "e.toml")], ["ope", "bundle"]):
        result = runner.invoke(app, ["ab", *verb, "--state", str(tmp_path / "typo")])
        assert isinstance(result.exception, ConfigError), result.output
    assert not (tmp_path / "typo").exists()


def test_chaos_says_what_it_does() -> None:
    result = runner.invoke(app, ["chaos", "--list"])
    assert [line.split()[0] for line in result.stdout.splitlines()] == [scenario.name for scenario in SCENARIOS]


def test_experiments_are_simulated_and_reported(tmp_path: Path) -> None:
    result = runner.invoke(app, ["ab", "simulate", "--trials", "20", "--users", "300", "--looks", "3", "--json"])
    assert json.loads(result.stdout)["always_valid_missed_at_any_look"] < 0.2
    (tmp_path / "e.toml").write_text("[x.arms.a]\nshare = 0.5\n[x.arms.b]\nshare = 0.5\n")
    state = UserState(tmp_path / "state")
    log = ExposureLog(tmp_path / "state" / FILE)
    for number in range(20):
        log.append(
            Exposure(time=100.0, user_id=f"u{number}", request_id="r", arms={"x": "ab"[number % 2]}, items=["i1"],
                     total_ms=5.0, degraded=False, filled=0, k=1)
        )  # fmt: skip
        state.commit([[Event(user_id=f"u{number}", item_id="i1", timestamp=200 + number)]])
    log.close()
    state.close()
    result = runner.invoke(
        app, ["ab", "report", str(tmp_path / "e.toml"), "--state", str(tmp_path / "state"), "--json"]
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    (found,) = told["layers"]
    assert told["channels"] == {}
    assert found["users"] == {"a": 10, "b": 10}
    assert found["differences"]["b"]["treatment"] == 1.0


@pytest.mark.slow
def test_a_batch_by_verb(run: Path, tmp_path: Path) -> None:
    arguments = ["batch", str(run / "bundle"), "--catalog", str(run / "catalog"), "--out", str(tmp_path), "-k", "3"]
    result = runner.invoke(app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("complete")


@pytest.mark.slow
def test_a_running_service_is_measured(served: Served) -> None:
    url = f"http://127.0.0.1:{served.port}"
    result = runner.invoke(app, ["bench", "serve", url, "--seconds", "1", "--deadline-ms", "3000", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["whole_per_s"] > 0
    assert found["whole"]["lacking_share"] <= 0.01
    for phase in ("whole", "light", "quiet", "overload", "after"):
        told = found[phase]
        assert told["failed"] == 0
        assert told["asked"] == told["answered"] + told["refused"]
        assert told["refused_with_retry_after"]
