"""The quickstart on the embedded data, with seconds of training: its report, and that a second run only reads."""

import dataclasses
import json
import time
from pathlib import Path

import pytest

from genrecall.model.config import ModelConfig, ModelSize
from genrecall.recipes import quickstart


@pytest.mark.slow
def test_the_quickstart_reports_what_it_promises_and_resumes(tmp_path: Path) -> None:
    recipe = quickstart.short()
    tiny = dataclasses.replace(
        recipe,
        model=ModelConfig(
            explicit=ModelSize(hidden=32, layers=1, heads=1, kv_heads=1, head_dim=32, ffn=64), window=256
        ),
        train=dataclasses.replace(recipe.train, max_seconds=20, max_events_per_user=10, device="cpu"),
        validation_cases=50,
    )
    outcome = quickstart.run(tiny, tmp_path, cases=300)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == json.loads(json.dumps(outcome.report))
    assert {"data", "embed", "sid", "train", "export", "eval"} <= set(report["stages"])
    assert {"generative", "popularity", "item_cf", "transition"} <= set(report["metrics"])
    for channel in report["metrics"].values():
        assert set(channel["recall@10"]) == {"mean", "low", "high"}
        assert channel["recall@10"]["low"] <= channel["recall@10"]["mean"] <= channel["recall@10"]["high"]
    assert report["invalid_sid_rate"] == 0
    assert report["bundle"] == outcome.shop.digest
    assert "leave-one-out" in report["protocol"]["sentence"]
    assert report["sid"]["collision_rate"]["after"] == 0
    # Counting is strong on baskets: if it is not, harness or channel is broken.
    assert (
        report["metrics"]["transition"]["recall@10"]["mean"] > 3 * report["metrics"]["popularity"]["recall@10"]["mean"]
    )
    page = (tmp_path / "report.html").read_text()
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert len(outcome.users) == quickstart.USERS
    for _, history, profile, answer in outcome.users:
        assert profile["country"]
        assert len(answer.items) == 5
        assert not {item.item_id for item in answer.items} & set(history)

    start = time.monotonic()
    again = quickstart.run(tiny, tmp_path, cases=300)
    assert again.report == report
    assert again.users[0][3].items == outcome.users[0][3].items
    assert time.monotonic() - start < sum(report["stages"].values())
