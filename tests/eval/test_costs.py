from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from genrecall.eval.beams import BeamPoint, beam_section
from genrecall.eval.costs import Cost, training_section
from genrecall.eval.document import Facts, Figure, Table
from genrecall.eval.report import evaluation_report

from .test_harness import Fixed, cases, run


def test_cost_of_a_model_stands_in_the_report(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}, tmp_path / "model.safetensors")
    cost = Cost.of_model(tmp_path, {"seconds": 1234.5, "machine": {"gpus": [], "cpu": "Some CPU"}})
    assert cost == Cost(train_s=1234.5, parameters=17, device="Some CPU")
    assert Cost.of_model(tmp_path, {"machine": {"gpus": ["Some GPU"], "cpu": "Some CPU"}}).device == "Some GPU"
    found = run([Fixed("generative", [[1]]), Fixed("counts", [[2]])], cases([1, 2]))
    text = evaluation_report(found, costs={"generative": cost}).to_markdown()
    assert "| 1,234 | 17 | Some CPU |" in text
    assert "| – | – | – |" in text


def test_training_curve(tmp_path: Path) -> None:
    lines = [{"epoch": 0.5, "loss": 3.0}, {"epoch": 1, "validation": 0.1}, {"epoch": 2, "validation": 0.2, "loss": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = {"epochs": 2.0, "seconds": 7.2, "tokens_per_s": 12345, "stopped": "epochs", "best": 0.2}
    section = training_section(tmp_path / "metrics.jsonl", facts, validation="NDCG@10")
    told, loss, valid = section.blocks
    assert isinstance(told, Facts)
    assert told.values["tokens/s"] == "12,345"
    assert told.values["best validation NDCG@10"] == "0.2000"
    assert isinstance(loss, Figure)
    assert isinstance(valid, Figure)
    assert valid.svg.count("<circle") == 2
    assert len(training_section(tmp_path / "metrics.jsonl", {}).blocks) == 2


@pytest.mark.parametrize(("speed", "metric"), [("tokens_per_s", "Recall@10"), ("events_per_s", "NDCG@10")])
def test_validation_is_named_after_what_it_was(tmp_path: Path, speed: str, metric: str) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    told = training_section(tmp_path / "metrics.jsonl", {speed: 5, "best": 0.2}).blocks[0]
    assert isinstance(told, Facts)
    assert f"best validation {metric}" in told.values


def test_recall_against_beam_stands_in_ascending_order() -> None:
    points = [
        BeamPoint(beam=300, metrics={"recall@10": 0.3, "ndcg@10": 0.2}, seconds=1.5),
        BeamPoint(beam=5, metrics={"recall@10": 0.1, "ndcg@10": 0.05}),
    ]
    figure, table = beam_section(points, "the rules").blocks
    assert isinstance(table, Table)
    assert table.rows == [["5", "0.1000", "0.0500", "–"], ["300", "0.3000", "0.2000", "1.50"]]
    assert table.caption == "the rules"
    assert isinstance(figure, Figure)
    assert figure.svg.count("<polyline") == 1  # recall only
