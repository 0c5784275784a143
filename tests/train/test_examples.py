"""Packed rows teach what plain prompts ask: equal probabilities, and nothing leaks."""

import dataclasses

import numpy as np
import pytest
import torch

from genrecall.errors import CapacityError
from genrecall.index.trie import Trie
from genrecall.train.config import TrainConfig
from genrecall.train.data import Examples
from genrecall.train.supervised import SidLearner, Targets
from genrecall.train.windows import Windows

LAYOUTS = [
    ("compact", {}),
    ("compact", {"session_gap": True}),
    ("compact", {"order": "newest_first"}),
    ("zh", {}),
    ("zh", {"session_gap": True, "deduplicate": "first"}),
    ("en", {"deduplicate": "last"}),
]
UNTIMED = [
    ("compact", {"session_gap": True}),
    ("compact", {"session_gap": True, "order": "newest_first"}),
    ("zh", {"session_gap": True}),
]


@pytest.fixture(scope="module")
def model(world):
    return world.model().eval()


def examples_of(world, template, history, timed=True, **config):
    settings = TrainConfig(**{"batch_tokens": 600, "overlap": 0.4, **config})
    histories = (world.histories if timed else world.untimed).take(np.arange(9))
    return Examples(world.prompts(template, **history), histories, world.profile_of, settings)


def target_nll(model, world, batch, normalise="trie"):
    """float64 (M,): loss of each target of a batch by itself."""
    targets = Targets(Trie.build(world.vocabulary.space, world.sids), world.sids, normalise)
    learner = SidLearner(model, world.vocabulary.level_starts, world.vocabulary.space.codes)
    with torch.no_grad():
        values = []
        for m in range(len(batch.items)):
            one = dataclasses.replace(batch, source=batch.source[m : m + 1], items=batch.items[m : m + 1])
            values.append(float(learner(targets.inputs(one, torch.device("cpu")))))
    return np.asarray(values)


def plain_nll(model, world, prompts, tokens, item):
    """The same from the prompt that serving writes, by the definition: unpacked, level by level."""
    trie = Trie.build(world.vocabulary.space, world.sids)
    total, tokens = 0.0, list(tokens)
    for level, code in enumerate(world.sids[item].tolist()):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens])).logits[0, -1]
        valid = trie.children(trie.walk(world.sids[item][:level]))[0]
        ids = torch.as_tensor(world.vocabulary.sid_tokens[level])
        log_p = torch.log_softmax(logits[ids[valid]], -1)
        total -= float(log_p[valid.tolist().index(code)])
        tokens.append(int(ids[code]))
    return total


@pytest.mark.parametrize(
    ("template", "history", "timed"), [(*layout, True) for layout in LAYOUTS] + [(*layout, False) for layout in UNTIMED]
)
def test_each_target_is_predicted_as_serving_would(world, model, template, history, timed):
    examples = examples_of(world, template, history, timed)
    windows, groups = examples.plan(0)
    assert windows.targets.sum() == len(examples.histories.items)
    group = max(groups[:6], key=len)[:4]
    batch = examples.collate(windows, group)
    packed = target_nll(model, world, batch)
    prompts, expected = examples.prompts, []
    for index in group.tolist():
        user = int(windows.users[index])
        items, times = examples.histories.of(user), examples.histories.times_of(user) if timed else None
        for target in range(int(windows.first_target[index]), int(windows.end[index])):
            past = slice(int(windows.begin[index]), target)
            tokens = prompts.encode(items[past], world.profile_of(user), None if times is None else times[past])
            expected.append(plain_nll(model, world, prompts, tokens, items[target]))
    assert len(batch.items) >= 4
    np.testing.assert_allclose(packed, expected, atol=1e-5)


@pytest.mark.parametrize(("template", "history"), [LAYOUTS[0], LAYOUTS[3]])
def test_nothing_leaks_from_one_history_or_answer_to_another(world, model, template, history):
    examples = examples_of(world, template, history)
    windows, groups = examples.plan(1)
    group = next(g for g in groups if len(g) >= 2)[:3]
    batch = examples.collate(windows, group)
    before = target_nll(model, world, batch)
    owner = np.repeat(np.arange(len(group)), windows.targets[group])
    for row in range(len(group)):
        tokens = batch.tokens.copy()
        if batch.segment is not None:
            hit = batch.segment == row
        else:
            hit = np.zeros_like(tokens, dtype=bool)
            hit[row] = True
        tokens[hit] = (tokens[hit] + 7) % world.vocabulary.size
        changed = target_nll(model, world, dataclasses.replace(batch, tokens=tokens)) != before
        assert not changed[owner != row].any()
        assert changed[owner == row].any()


def test_an_answer_is_seen_by_its_own_branch_only(world, model):
    examples = examples_of(world, "zh", {})
    windows, groups = examples.plan(0)
    batch = examples.collate(windows, groups[0])
    before = target_nll(model, world, batch)
    for m in (0, len(batch.items) // 2):
        tokens = batch.tokens.copy()
        answer = batch.source[m, 1:]  # where its codes stand
        tokens.reshape(-1)[answer] = 5
        changed = target_nll(model, world, dataclasses.replace(batch, tokens=tokens)) != before
        assert changed[m]
        assert not np.delete(changed, m).any()


def test_plans_repeat_for_equal_seeds_and_differ_between_epochs(world):
    def flat(seed, epoch, **config):
        examples = examples_of(world, "compact", {}, seed=seed, **config)
        windows, groups = examples.plan(epoch)
        return np.concatenate([examples.collate(windows, group).items for group in groups]).tolist()

    assert flat(0, 2) == flat(0, 2)
    assert flat(0, 2) != flat(0, 3)
    assert flat(0, 2) != flat(1, 2)
    assert (
        sorted(flat(0, 2))
        == sorted(flat(0, 3, reshuffle_ties=True))
        == sorted(world.histories.take(np.arange(9)).items.tolist())
    )


def test_ties_get_a_new_order_every_epoch(world):
    examples = examples_of(world, "compact", {}, reshuffle_ties=True)
    orders = []
    for epoch in (0, 1, 0):
        examples.plan(epoch)
        orders.append(examples.histories.items.tolist())
    assert orders[0] == orders[2] != orders[1]


def test_thinning_keeps_the_latest_events(world):
    examples = examples_of(world, "compact", {}, max_events_per_user=3)
    assert examples.histories.lengths.max() == 3
    assert examples.histories.of(4).tolist() == world.histories.of(4)[-3:].tolist()


@pytest.mark.parametrize("profile_of", [None, lambda user: {"country": "Spain " * (8 if user else 0)}])
@pytest.mark.parametrize(("template", "window"), [("compact", 40), ("zh", 60)])
def test_rows_fit_the_model_window(world, template, window, profile_of):
    settings = TrainConfig(batch_tokens=300)
    prompts = world.prompts(template, max_tokens=window, max_items=50)
    examples = Examples(prompts, world.histories, profile_of, settings)
    windows, groups = examples.plan(0)
    for group in groups:
        batch = examples.collate(windows, group)
        places = batch.source % batch.tokens.shape[1] if batch.positions is None else batch.positions
        longest = places.max() + 1  # what fills rows up to a round width is no part of them
        assert longest <= window
        assert batch.positions is not None or batch.tokens.size <= settings.batch_tokens
    assert isinstance(windows, Windows)


def test_a_profile_that_leaves_no_room_is_refused(world):
    prompts = world.prompts("zh", max_tokens=60)
    with pytest.raises(CapacityError, match="longer than the model's window"):
        Examples(prompts, world.histories, lambda user: {"country": "Spain " * (user == 3) * 15}, TrainConfig())


def test_a_teacher_is_told_what_the_prompt_shows(world):
    examples = examples_of(world, "compact", {"order": "newest_first", "deduplicate": "last", "max_items": 3})
    windows, groups = examples.plan(0)
    lengths = set()
    for group in groups:
        batch = examples.collate(windows, group)
        assert [events[-1] for events in batch.contexts.items] == batch.items.tolist()
        lengths |= {len(events) for events in batch.contexts.items}
        assert all(len(a) == len(b) for a, b in zip(batch.contexts.items, batch.contexts.times, strict=True))
    assert lengths == {1, 2, 3, 4}
