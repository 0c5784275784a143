"""Preference losses against arithmetic by hand, their gradients, and a run that learns a planted preference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from genrecall.catalog.histories import Histories
from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.errors import ConfigError
from genrecall.index.trie import Trie
from genrecall.model.sequence import SequenceBatch
from genrecall.model.trunk import ItemTrunk, TrunkConfig
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.sid.space import SidSpace
from genrecall.train.preference import (
    REJECTED_ITEMS,
    REJECTED_WEIGHTS,
    PreferenceConfig,
    PreferenceLearner,
    Rejected,
    divergence,
)
from genrecall.train.preference_fit import PreferenceResult, prefer
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.trunk import PREFIX

SPACE, ITEMS, WINDOW = SidSpace((4, 6, 3)), 30, 6
PLAIN = PreferenceConfig(nll=0.0, kl=0.0, beta=1.0, rank_penalty=0.0, last=2)
SIDS = np.stack(
    np.unravel_index(np.random.default_rng(1).choice(SPACE.capacity, ITEMS, replace=False), SPACE.codes), axis=1
).astype(np.int32)
PROMPT = ItemPrompt(num_items=ITEMS, codes=SPACE.codes, window=WINDOW)
# A user goes from any item to the next one; 0 stands for everything popular.
HISTORIES = Histories.from_lists([[(start + step) % ITEMS for step in range(5)] for start in range(ITEMS)])
EVENTS = len(HISTORIES.items)


def trunk(seed: int = 0) -> ItemTrunk:
    config = TrunkConfig(
        width=32, layers=1, depth_layers=1, heads=2, window=WINDOW, dropout=0.0, item_dropout=0.0, seed=seed
    )
    model = ItemTrunk(config, SPACE, SIDS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model


def learner(config: PreferenceConfig, policy: ItemTrunk, reference: ItemTrunk, **more: str) -> PreferenceLearner:
    counts = np.arange(ITEMS)[::-1]
    return PreferenceLearner(policy, reference, Trie.build(SPACE, SIDS), SIDS, counts, config, **more).train()


def batch_of(rows: list[list[int]], rejected: list[list[int]], weights: list[list[float]]) -> SequenceBatch:
    """Rows of a prompt and its target; the same negatives beside the last target of each."""
    longest = max(len(row) for row in rows) - 1
    items, targets = torch.zeros(len(rows), longest, dtype=torch.int64), torch.full((len(rows), longest), -1)
    beside = torch.zeros(len(rows), longest, len(rejected[0]), dtype=torch.int32)
    shares = torch.zeros(len(rows), longest, len(rejected[0]), dtype=torch.float16)
    for number, row in enumerate(rows):
        last = len(row) - 2
        items[number, : last + 1] = torch.tensor(row[:-1])
        targets[number, last] = row[-1]
        beside[number, last], shares[number, last] = torch.tensor(rejected[number]), torch.tensor(weights[number])
    return SequenceBatch(
        items=items,
        lengths=torch.tensor([len(row) - 1 for row in rows]),
        targets=targets,
        extra={
            PREFIX: torch.tensor([PROMPT.head()] * len(rows)),
            REJECTED_ITEMS: beside,
            REJECTED_WEIGHTS: shares,
        },
    )


def test_dpo_by_hand() -> None:
    model = learner(replace(PLAIN, beta=0.5, nll=0.1), trunk(), trunk())
    log_p, reference = torch.tensor([[-1.0, -2.0, -4.0]]), torch.tensor([[-2.0, -1.0, -4.0]])
    # Δ = 1, -1, 0; a weight of 0 says that there is no such negative.
    two = math.log(1 + (0.5 * math.exp(-0.5) + 1.5 * math.exp(0.0)) / math.exp(0.5))
    one = math.log(1 + 1.5 * math.exp(-0.5) / math.exp(0.5))
    for weights, expected in (([0.5, 1.5], two), ([1.5, 0.0], one)):
        found = model.preference(log_p, reference, torch.tensor([weights]), torch.zeros(1, 3))
        assert float(found) == pytest.approx(expected + 0.1, rel=1e-5)
    tilted = model.preference(log_p, reference, torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 3.0, 9.0]]))
    assert float(tilted) == pytest.approx(math.log(1 + math.exp(-0.5 + 3 - 0.5 - 2)) + 0.1, rel=1e-5)


def test_policy_by_hand() -> None:
    config = replace(PLAIN, objective="policy", rank_penalty=0.5, kl=2.0)
    p, q = np.array([0.2, 0.3, 0.1]), np.array([0.1, 0.4, 0.2])
    log_p, reference = (torch.tensor(np.log(x)[None], dtype=torch.float32) for x in (p, q))
    reward = np.array([1.0, -0.25, -0.75]) - np.array([0.1, 0.0, -0.2])
    kl = float((p * np.log(p / q)).sum() + 0.4 * math.log(0.4 / 0.3))
    expected = -float((p / p.sum() * reward).sum()) + 2 * kl
    found = learner(config, trunk(), trunk()).preference(
        log_p, reference, torch.tensor([[0.5, 1.5]]), torch.tensor([[0.1, 0.0, -0.2]])
    )
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(divergence(log_p, log_p, torch.ones(1, 3, dtype=torch.bool))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("normalise", ["trie", "level"])
def test_items_score_as_in_the_engine(normalise: str) -> None:
    model, engine_config = trunk(3), EngineConfig(normalise=normalise, device="cpu")
    engine = Engine(model, Trie.build(SPACE, SIDS), PROMPT.sid_tokens, engine_config)
    preferring = learner(PLAIN, model, trunk(3), normalise=normalise).eval()
    request = Request(tokens=tuple(PROMPT.encode(np.array([3, 1, 4]))))
    expected = engine.score([request], [SIDS])[0]
    batch = batch_of([[3, 1, 4, 9]], [[1]], [[1.0]])
    hidden = preferring.policy.hidden(batch, torch.tensor([[2]])).flatten(0, 1)
    found = preferring.policy.log_p(hidden, torch.arange(ITEMS)[None])[0]
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=2e-4)


def test_an_unmoved_policy_knows_nothing_and_each_row_counts_its_last_targets() -> None:
    same = learner(PLAIN, trunk(), trunk())
    batch = batch_of([[1, 2, 3], [4, 5, 6, 7], [8, 9]], [[10, 11], [12, 13], [14, 0]], [[1, 1], [1, 0], [0, 0]])
    with torch.no_grad():
        nats, count = same.loss(batch)
    assert int(count) == 2  # the third row has no negatives
    assert float(nats) == pytest.approx(math.log(3) + math.log(2), abs=1e-4)
    batch.targets[1, 1] = 3  # no negatives stand beside it
    assert int(same.loss(batch)[1]) == 2


@pytest.mark.parametrize("objective", ["dpo", "policy"])
def test_a_step_lifts_the_positive_over_the_negatives(objective: str) -> None:
    policy, reference = trunk(), trunk()
    model = learner(replace(PLAIN, objective=objective), policy, reference)
    batch = batch_of([[1, 2, 3]], [[10, 11]], [[1.5, 0.5]])
    group, place = torch.tensor([[3, 10, 11]]), torch.tensor([[1]])

    def lead() -> float:
        with torch.no_grad():
            log_p = model.policy.log_p(model.policy.hidden(batch, place).flatten(0, 1), group)[0]
        return float(log_p[0] - torch.logsumexp(log_p[1:], 0))

    before, kept = lead(), {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    model.loss(batch)[0].backward()
    assert all(parameter.grad is None for parameter in reference.parameters())
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
    assert lead() > before
    assert all(torch.equal(tensor, kept[name]) for name, tensor in reference.state_dict().items())


def test_popularity_pays_less_with_a_tilt() -> None:
    """The gradient on a popular positive shrinks, and that on a rare one grows."""
    zeros, weights = torch.zeros(1, 2), torch.ones(1, 1)
    pulls = {}
    for popularity in (0.0, 1.0):
        model = learner(replace(PLAIN, popularity=popularity), trunk(), trunk())
        for positive, negative in ((0, 25), (25, 0)):  # item 0 has the most training events
            log_p = torch.zeros(1, 2, requires_grad=True)
            model.preference(log_p, zeros, weights, model.tilt[torch.tensor([[positive, negative]])]).sum().backward()
            pulls[popularity, positive] = -float(log_p.grad[0, 0])
    assert pulls[0.0, 0] == pytest.approx(pulls[0.0, 25])
    assert pulls[1.0, 0] < pulls[0.0, 0] < pulls[1.0, 25]


def run(
    objective: str, sign: float = 1.0, model: ItemTrunk | None = None, device: str = "cpu"
) -> tuple[PreferenceResult, ItemTrunk]:
    """Every event's negatives are two wrong items; validation is the right answers' lead, times ``sign``."""
    wrong = (HISTORIES.items[:, None] + np.array([5, 11])) % ITEMS
    rejected = Rejected(items=wrong.astype(np.int32), weights=np.ones((EVENTS, 2), np.float16))
    trie = Trie.build(SPACE, SIDS)

    def lead(current: ItemTrunk) -> float:
        engine = Engine(current, trie, PROMPT.sid_tokens, EngineConfig(device="cpu"))
        requests = [Request(tokens=tuple(PROMPT.encode(np.array([item])))) for item in range(ITEMS)]
        asked = [SIDS[(item + np.array([1, 6, 12])) % ITEMS] for item in range(ITEMS)]
        scores = np.array(engine.score(requests, asked))
        return sign * float((scores[:, 0] - scores[:, 1:].max(1)).mean())

    train = SequenceConfig(
        epochs=6, window=WINDOW, batch_tokens=60, lengths=(), learning_rate=3e-3, eval_every=2, device=device,
        precision="float32",
    )  # fmt: skip
    model = model or trunk()
    result = prefer(
        model, trie, SIDS, HISTORIES, PreferenceConfig(objective=objective, last=4, rounds=2, train=train),
        prompt=PROMPT, profile_of=lambda user: {}, normalise="trie", propose=lambda current: rejected, validate=lead,
    )  # fmt: skip
    assert sign * lead(model) == pytest.approx(sign * result.after, abs=1e-5)
    return result, model


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("objective", ["dpo", "policy"])
def test_a_run_learns_a_planted_preference(objective: str, device: str) -> None:
    result, _ = run(objective, device=device)
    assert result.improved
    assert result.after > result.before + 1
    assert len(result.rounds) == 2


def test_the_old_weights_stay_where_validation_falls() -> None:
    model = trunk()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result, _ = run("dpo", sign=-1.0, model=model)
    assert not result.improved
    assert result.after == result.before
    assert len(result.rounds) == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_settings_that_could_not_teach_are_refused() -> None:
    for wrong in ({"objective": "ppo"}, {"beam": 0}, {"kl": -1.0}, {"beta": 0.0}):
        with pytest.raises(ConfigError):
            PreferenceConfig(**wrong)
