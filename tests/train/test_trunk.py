"""The loss of an item trunk is what the engine scores, and a run over histories learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrecall.catalog.histories import Histories
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.index.trie import Trie
from genrecall.model.sequence import SOFT_ITEMS, SOFT_WEIGHTS, SequenceBatch
from genrecall.model.trunk import ItemTrunk, TrunkConfig
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.sid.space import SidSpace
from genrecall.sid.table import SidTable
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.soft import SoftTargets
from genrecall.train.trunk import PREFIX, TrunkLearner
from genrecall.train.trunk_fit import train_trunk

SPACE = SidSpace((4, 12, 4))
ITEMS = 40


@pytest.fixture(scope="module")
def sids() -> np.ndarray:
    flat = np.random.default_rng(1).choice(SPACE.capacity, size=ITEMS, replace=False)
    return np.stack(np.unravel_index(flat, SPACE.codes), axis=1).astype(np.int32)


def batch_of(items: list[int], target: int, prompt: ItemPrompt, **extra: torch.Tensor) -> SequenceBatch:
    targets = torch.full((1, len(items)), -1)
    targets[0, -1] = target
    return SequenceBatch(
        items=torch.tensor([items]),
        lengths=torch.tensor([len(items)]),
        targets=targets,
        extra={PREFIX: torch.tensor([prompt.head()]), **extra},
    )


@pytest.mark.parametrize("normalise", ["trie", "level"])
def test_loss_is_the_engines_score(sids: np.ndarray, normalise: str) -> None:
    trie = Trie.build(SPACE, sids)
    prompt = ItemPrompt(num_items=ITEMS, codes=SPACE.codes, window=5)
    model = ItemTrunk(TrunkConfig(width=32, layers=2, heads=2, window=5), SPACE, sids).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    learner = TrunkLearner(model, trie, sids, normalise=normalise, start_weight=0).eval()
    engine = Engine(model, trie, prompt.sid_tokens, EngineConfig(normalise=normalise, device="cpu"))
    request = Request(tokens=tuple(prompt.encode(np.array([3, 1, 4]))))
    scores = engine.score([request], [[tuple(sid) for sid in sids.tolist()]])[0]
    for target in range(0, ITEMS, 7):
        nats, count = learner.loss(batch_of([3, 1, 4], target, prompt))
        assert float(count) == 1
        assert float(nats) == pytest.approx(-scores[target], abs=2e-4)
    # A teacher's distribution: paths are drawn, so the loss is right on average.
    soft = {
        SOFT_ITEMS: torch.tensor([[[0, 0]] * 2 + [[5, 9]]]),
        SOFT_WEIGHTS: torch.tensor([[[0.0, 0.0]] * 2 + [[0.3, 0.5]]]),
    }
    torch.manual_seed(0)
    drawn = [float(learner.loss(batch_of([3, 1, 4], 7, prompt, **soft))[0]) for _ in range(600)]
    expected = -(0.2 * scores[7] + 0.3 * scores[5] + 0.5 * scores[9])
    assert np.mean(drawn) == pytest.approx(expected, abs=4 * np.std(drawn) / 600**0.5 + 1e-3)


def test_training_learns_and_resumes(sids: np.ndarray, tmp_path) -> None:
    rng = np.random.default_rng(0)
    starts = rng.integers(ITEMS, size=60)
    histories = Histories.from_lists([[int((s + step) % ITEMS) for step in range(9)] for s in starts])  # i → i + 1
    table = SidTable(space=SPACE, item_ids=[str(i) for i in range(ITEMS)], sids=sids)
    prompt = ItemPrompt(num_items=ITEMS, codes=SPACE.codes, window=8)
    soft = SoftTargets(
        items=((histories.items[:, None] + np.array([0, 1])) % ITEMS).astype(np.int32),
        weights=np.full((len(histories.items), 2), [0.4, 0.1], dtype=np.float16),
    )

    def hits(model: ItemTrunk) -> float:
        engine = Engine(model, Trie.build(SPACE, sids), prompt.sid_tokens, EngineConfig(device="cpu", beam=4))
        answers = engine.generate([Request(tokens=tuple(prompt.encode(np.array([i])))) for i in range(ITEMS - 1)])
        return float(np.mean([answer.sids[0] == tuple(sids[i + 1].tolist()) for i, answer in enumerate(answers)]))

    config = SequenceConfig(
        epochs=30, window=8, batch_tokens=128, lengths=(), optimizer="muon", adamw_only=("lm_head",),
        learning_rate=5e-3, eval_every=15, device="cpu", precision="float32",
    )  # fmt: skip
    model = TrunkConfig(width=32, layers=1, depth_layers=1, heads=2, window=8, dropout=0.0, item_dropout=0.0)
    result = train_trunk(
        table, histories, out=tmp_path / "model", model=model, train=config, prompt=prompt,
        profile_of=lambda user: {}, soft=soft, validate=hits, parents={"sid": "x"}, recipe={},
    )  # fmt: skip
    assert result.best is not None
    assert result.best > 0.8
    assert hits(ItemTrunk.load(tmp_path / "model", sids)) == pytest.approx(result.best)
