from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from genrecall.errors import ArtifactError, ConfigError
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.metrics import gains
from genrecall.eval.protocol import Protocol
from genrecall.eval.report import evaluation_report, sections, verdict
from genrecall.eval.seeds import merge, merge_files
from genrecall.eval.significance import intervals
from genrecall.eval.store import load, save

from .test_harness import PROTOCOL, Fixed, cases, run

TARGETS = [1 + i % 30 for i in range(60)]


def one(seed: int, protocol: Protocol = PROTOCOL, others: tuple[str, ...] = ("popularity",)) -> Evaluation:
    """The generative channel finds 30 to 50 of 60 targets, which ones depends on the seed; the others never change."""
    rng = np.random.default_rng(seed)
    found = rng.permutation(60) < 30 + 10 * (seed % 3)
    lists = [[39, target] if hit else [39] for hit, target in zip(found, TARGETS, strict=True)]
    channels = [Fixed("generative", lists), *(Fixed(name, [[1, 2]]) for name in others)]
    asked = cases(TARGETS, users=[i // 2 for i in range(60)])
    return run(channels, asked, protocol, log_scores=("generative",)).with_invalid_sid_rate("generative", seed / 100)


def test_means_deviations_and_intervals() -> None:
    runs = [one(seed) for seed in range(3)]
    merged = merge(runs, ["a", "b", "c"])
    result = merged.results["generative"]
    assert result.by_seed("recall@10").tolist() == pytest.approx([0.5, 4 / 6, 5 / 6])
    assert result.metrics["recall@10"].mean == pytest.approx(2 / 3)
    assert result.deviation("recall@10") == pytest.approx(1 / 6)
    assert merged.results["popularity"].deviation("ndcg@5") == 0
    assert result.ranks is not None
    averaged = np.stack([gains(ranks, (5, 10)) for ranks in result.ranks]).astype(np.float32).mean(0, np.float64)
    expected = intervals(averaged, merged.users, resamples=200)
    assert list(result.metrics.values()) == expected
    # Averaging seeds takes away what only one of them finds: the interval is narrower than a single run's.
    alone = runs[0].results["generative"].metrics["recall@10"]
    assert result.metrics["recall@10"].high - result.metrics["recall@10"].low < alone.high - alone.low
    assert result.invalid_sid_rate == 0.02
    told = merged.to_dict()
    assert told["metrics"]["generative"]["recall@10"]["seeds"] == pytest.approx([0.5, 4 / 6, 5 / 6])
    assert told["runs"] == ["a", "b", "c"]


def test_comparisons_average_seeds_case_by_case() -> None:
    runs = [one(seed) for seed in range(3)]
    merged = merge(runs, ["a", "b", "c"])
    separate = np.mean([found.difference("generative", "popularity").interval.mean for found in runs])
    assert merged.difference("generative", "popularity").interval.mean == pytest.approx(separate)


def test_the_page_tells_of_the_seeds() -> None:
    merged = merge([one(seed) for seed in range(3)], ["a", "b", "c"])
    text = evaluation_report(merged).to_markdown()
    assert "2 channels x 3 seeds" in text
    assert "**0.6667 ±0.1667**" in text
    assert "Means of 3 runs that differ in their seed." in merged.sentence()
    assert "| generative | Recall@10 | 0.5000 | 0.6667 | 0.8333 |" in text
    assert "generative − popularity | Recall@10" in text
    assert verdict(merged).startswith("The channel generative is ahead")
    assert len(sections(merged)) == 6


def test_stored_runs_come_back_and_merge(tmp_path: Path) -> None:
    runs = [one(seed) for seed in range(3)]
    for place, found in enumerate(runs):
        (tmp_path / f"s{place}").mkdir()
        told = save(found, tmp_path / f"s{place}" / "eval.json", {"bundle": f"sha256:{place}"})
        assert json.loads((tmp_path / f"s{place}" / "eval.json").read_text()) == json.loads(json.dumps(told))
        again, read = load(tmp_path / f"s{place}")
        assert again.to_dict() == found.to_dict()
        assert read["bundle"] == f"sha256:{place}"
        assert again.calibration("generative", 10) == found.calibration("generative", 10)
    merged = merge_files([tmp_path / "s0", tmp_path / "s1" / "eval.json", tmp_path / "s2"])
    assert merged.runs == tuple(str(tmp_path / f"s{place}") for place in range(3))
    expected = merge(runs, merged.runs)
    assert merged.to_dict() == expected.to_dict()
    save(merged, tmp_path / "report.json")
    again, _ = load(tmp_path / "report.json")
    assert again.to_dict() == expected.to_dict()
    assert merge_files([tmp_path / "report.json"]).to_dict() == expected.to_dict()
    with pytest.raises(ConfigError, match="number of runs"):
        merge_files([tmp_path / "report.json", tmp_path / "s0"])
    with pytest.raises(ConfigError, match="same bundle stands twice"):
        merge_files([tmp_path / "s0", tmp_path / "s0"])


def test_runs_that_differ_in_more_than_the_seed_are_refused() -> None:
    first = one(0)
    for other, words in (
        (one(1, Protocol(split="leave-one-out", ks=(5, 10), history="kept")), "rules"),
        (one(1, others=("item_cf",)), "channels"),
        (dataclasses.replace(one(1), part="test"), "part of the split"),
        (dataclasses.replace(one(1), cases="sha256:other"), "cases"),
        (dataclasses.replace(one(1), num_items=41), "rules"),
    ):
        with pytest.raises(ConfigError, match=f"they differ in their {words}"):
            merge([first, other], ["a", "b"])


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no evaluation that can be read back"):
        load(tmp_path / "eval.json")
    save(one(0), tmp_path / "a.json")
    save(one(1), tmp_path / "b.json")
    (tmp_path / "a.npz").write_bytes((tmp_path / "b.npz").read_bytes())
    with pytest.raises(ArtifactError) as refused:
        load(tmp_path / "a.json")
    assert "another evaluation" in refused.value.seen
    (tmp_path / "a.npz").unlink()
    with pytest.raises(ArtifactError) as refused:
        load(tmp_path / "a.json")
    assert "missing" in refused.value.seen
    (tmp_path / "old.json").write_text('{"protocol": {}, "metrics": {}}')
    with pytest.raises(ArtifactError, match="no evaluation"):
        load(tmp_path / "old.json")
