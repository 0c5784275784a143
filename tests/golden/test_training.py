"""Small training runs whose figures are written down, so that no change of what training computes goes unseen.

Loss curves agree within a relative 1e-4 (Muon: 1e-2, as it orthogonalises matrices in bfloat16), which leaves room
for other CPUs and versions of torch: at this rate AdamW keeps their rounding within 1e-6 over the whole run (at twice
the rate it grew to 2e-3). Scores of the best five agree within 0.002, and so do their SIDs, but for ties closer than
that. Where a change is meant, write the files anew with ``GENRECALL_GOLDEN=write python -m pytest tests/golden``, and
say in the commit why they changed.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from genrecall.catalog.histories import Histories
from genrecall.engine import reference
from genrecall.engine.host.request import Request
from genrecall.index.trie import Trie
from genrecall.model.backbones import build_scratch
from genrecall.model.config import ModelConfig, ModelSize
from genrecall.prompt.history import HistoryConfig
from genrecall.prompt.prompt import PromptBuilder
from genrecall.prompt.template import load_template
from genrecall.prompt.vocabulary import Vocabulary
from genrecall.sid.space import SidSpace
from genrecall.train.config import TrainConfig
from genrecall.train.distil import Counts, DistilConfig
from genrecall.train.loop import train

HERE = Path(__file__).parent
SPACE = SidSpace((4, 4, 2))
ITEMS = 32
SIZE = ModelSize(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=48)
RUNS = {
    "adamw": ({"optimizer": "adamw", "learning_rate": 5e-3}, 1e-4),
    "muon_distil": ({"optimizer": "muon", "learning_rate": 1e-2, "distil": DistilConfig(weight=0.5)}, 1e-2),
}
ASKED = ([2], [1, 5, 9], [3, 7, 11, 15], [20, 24, 28, 0, 4])


class World:
    """32 items in four themes (the first code); users walk through one of them, and now and then through any."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        rows = []
        for user in range(32):
            start, length = int(rng.integers(8)), int(rng.integers(4, 12))
            walk = [user % 4 + 4 * ((start + step) % 8) for step in range(length)]
            rows.append([int(rng.integers(ITEMS)) if rng.random() < 0.1 else item for item in walk])
        self.histories = Histories.from_lists(rows)
        numbers = np.arange(ITEMS)
        self.sids = np.stack([numbers % 4, numbers // 4 % 4, numbers // 16], 1).astype(np.int32)
        self.trie = Trie.build(SPACE, self.sids)
        self.vocabulary = Vocabulary.scratch(SPACE)
        self.prompts = PromptBuilder(
            self.vocabulary, load_template("compact"), HistoryConfig(max_items=8), self.sids, max_tokens=64
        )

    def teacher(self) -> Counts:
        matrix = np.zeros((ITEMS, ITEMS), dtype=np.float32)
        for user in range(len(self.histories)):
            items = self.histories.of(user)
            np.add.at(matrix, (items[:-1], items[1:]), 1)
        return Counts(matrix=matrix, decay=0.5)

    def train(self, out: Path, **settings):
        """Model and loss curve, one loss a step."""
        config = TrainConfig(
            **{"epochs": 16, "batch_tokens": 400, "dropout": 0.1, "device": "cpu", "precision": "float32"},
            log_every=1, checkpoint_every_s=0, **settings,
        )  # fmt: skip
        model = build_scratch(ModelConfig(explicit=SIZE, window=64), self.vocabulary.size)
        train(
            model, self.prompts, self.histories, out=out, config=config, trie=self.trie,
            teacher=self.teacher() if config.distil else None,
        )  # fmt: skip
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return model, [json.loads(line)["loss"] for line in lines]

    def answer(self, model, history: list[int]) -> dict[str, float]:
        """Scores of all items, best first, by the definition of an answer."""
        request = Request(tokens=tuple(self.prompts.encode(history)), beam=ITEMS)
        answer = reference.generate(model, self.trie, self.vocabulary.sid_tokens, request)
        return {SPACE.format(sid): score for sid, score in zip(answer.sids, answer.scores, strict=True)}


def golden(name: str, lines: list[str]) -> list[str]:
    """The lines that are written down under this name."""
    file = HERE / f"{name}.txt"
    if os.environ.get("GENRECALL_GOLDEN") == "write":
        file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return file.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize("name", RUNS)
def test_the_loss_curve_and_the_best_five_are_those_written_down(world, tmp_path, name):
    settings, tolerance = RUNS[name]
    model, losses = world.train(tmp_path / "model", **settings)
    expected = golden(f"loss_{name}", [f"{loss:.6f}" for loss in losses])
    np.testing.assert_allclose(losses, np.asarray(expected, dtype=float), rtol=tolerance)
    assert losses[-1] < 0.6 * losses[0]
    if name != "adamw":
        return
    answers = [world.answer(model, history) for history in ASKED]
    best = [(sid, score) for answer in answers for sid, score in list(answer.items())[:5]]
    written = [line.split() for line in golden("best_five", [f"{sid} {score:.4f}" for sid, score in best])]
    wanted = np.asarray([float(score) for _, score in written])
    np.testing.assert_allclose([score for _, score in best], wanted, atol=0.002)
    of_written = [answers[place // 5][sid] for place, (sid, _) in enumerate(written)]
    np.testing.assert_allclose(of_written, wanted, atol=0.002)
