"""The count model against a slow one written from its formula, and what it must be able to tell apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.catalog.histories import Histories
from genrecall.catalog.split import leave_one_out
from genrecall.errors import ConfigError
from genrecall.sid.proxy import Counts, ProxyConfig, proxy_ranks
from genrecall.sid.tree import Tree

CONFIG = ProxyConfig(smoothing=2.0, decay=0.5, window=2)


def slow_chance(sids: np.ndarray, histories: Histories, source: tuple, target: tuple, config: ProxyConfig) -> float:
    """P(target | source), straight from the docstring: one recursion a level, contexts 0, 1, 2 and all codes."""
    pairs = []
    for user in range(len(histories)):
        items = histories.of(user).tolist()
        for at, item in enumerate(items):
            for distance in range(1, config.window + 1):
                if at + distance < len(items) and items[at + distance] != item:
                    pairs.append((tuple(sids[item]), tuple(sids[items[at + distance]]), 1 / distance))
    popular = [((), tuple(sids[item]), 1.0) for item in histories.items.tolist()]
    every = {tuple(sid) for sid in sids.tolist()}
    contexts, before = [], len(every)
    for k in (1, 2, sids.shape[1]):
        size = len({sid for sid in every if sid[:k] == source[:k]})
        contexts += [k] if size != before else []
        before = size
    total = 1.0
    for level in range(sids.shape[1]):
        prefix, child = target[:level], target[: level + 1]
        chance = 1 / len({sid[: level + 1] for sid in every if sid[:level] == prefix})
        for k, seen in [(0, popular), *((k, pairs) for k in contexts)]:
            here = [(t, w) for s, t, w in seen if s[:k] == source[:k]] if k else [(t, w) for _, t, w in seen]
            down = sum(w for t, w in here if t[: level + 1] == child)
            up = sum(w for t, w in here if t[:level] == prefix)
            chance = (down + config.smoothing * chance) / (up + config.smoothing)
        total *= chance
    return total


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 3))
def test_chances_follow_the_formula(seed: int, levels: int, codes: int) -> None:
    rng = np.random.default_rng(seed)
    sids = rng.integers(0, codes, (12, levels)).astype(np.int32)
    histories = Histories.from_lists([rng.integers(0, 12, rng.integers(0, 6)).tolist() for _ in range(8)])
    tree = Tree.of(sids)
    chances = Counts(tree, histories, CONFIG).probabilities(np.arange(tree.leaves))
    assert chances.sum(1) == pytest.approx(1, abs=1e-5)
    for item, other in rng.integers(0, 12, (10, 2)).tolist():
        expected = slow_chance(sids, histories, tuple(sids[item]), tuple(sids[other]), CONFIG)
        assert chances[tree.leaf_of[item], tree.leaf_of[other]] == pytest.approx(expected, rel=1e-4)


def walks(seed: int = 0) -> Histories:
    """400 users; each stays in one of eight themes of eight items, in any order."""
    rng = np.random.default_rng(seed)
    return Histories.from_lists([(rng.permutation(8)[:5] + 8 * rng.integers(8)).tolist() for _ in range(400)])


def test_themes_in_the_codes_help_and_collisions_cost() -> None:
    split = leave_one_out(walks())
    numbers = np.arange(64)
    good = np.stack([numbers // 8, numbers % 8], 1)
    shuffled = np.random.default_rng(0).permutation(good)
    one_sid = np.zeros((64, 2), int)
    found = {
        name: proxy_ranks(sids, split, ProxyConfig(smoothing=5)).recall(3)
        for name, sids in {"good": good, "shuffled": shuffled, "one": one_sid}.items()
    }
    assert found["good"] > found["one"] + 0.2
    assert found["shuffled"] > found["one"]
    # A collapsed tokeniser ranks by popularity alone: no better than chance here, and never a hit for "same SID".
    assert found["one"] < 0.15


def test_history_is_removed_or_kept_and_the_test_part_is_not_read() -> None:
    histories = walks()
    split = leave_one_out(histories)
    sids = np.stack([np.arange(64) // 8, np.arange(64) % 8], 1)
    removed = proxy_ranks(sids, split, ProxyConfig(cases=100)).ranks
    kept = proxy_ranks(sids, split, ProxyConfig(cases=100, history="kept")).ranks
    assert (removed <= kept).all()
    assert (removed < kept).any()
    changed = histories.items.copy()
    changed[histories.offsets[1:] - 1] = 0  # every test target
    other = Histories(offsets=histories.offsets, items=changed, times=histories.times, timed=False)
    assert np.array_equal(proxy_ranks(sids, leave_one_out(other), ProxyConfig(cases=100)).ranks, removed)


def test_ranks_are_those_of_a_sorted_list() -> None:
    split = leave_one_out(walks(3))
    sids = np.random.default_rng(1).integers(0, 3, (64, 3))  # many items share a SID
    config = ProxyConfig(cases=30)
    found = proxy_ranks(sids, split, config)
    tree, popular = Tree.of(sids), split.train.item_counts(64)
    chances = Counts(tree, split.train, config).probabilities(np.arange(tree.leaves))
    for case, rank in zip(found.cases.tolist(), found.ranks.tolist(), strict=True):
        history = split.valid.histories.of(case)
        weights = (config.decay ** np.arange(min(len(history), config.last))).astype(np.float32)
        scores = weights @ chances[tree.leaf_of[history[::-1][: config.last]]]
        order = np.lexsort((np.arange(64), -popular, -scores[tree.leaf_of]))
        order = order[~np.isin(order, history)]
        target = split.valid.targets[case]
        met = any(
            target in split.train.of(user)[at + 1 : at + 1 + config.window]
            for user in range(len(split.train))
            for at, item in enumerate(split.train.of(user).tolist())
            if item in history[-config.last :]
        )
        assert found.met[found.cases.tolist().index(case)] == met
        assert rank == (order.tolist().index(target) + 1 if target in order else 65)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 4), st.integers(1, 3))
def test_a_tree_knows_what_lies_under_each_node(seed: int, items: int, levels: int, codes: int) -> None:
    sids = np.random.default_rng(seed).integers(0, codes, (items, levels))
    tree = Tree.of(sids)
    assert tree.leaves == len(np.unique(sids, axis=0))
    for depth in range(1, len(tree.starts) + 1):
        begin, end = tree.extent(tree.leaf_of, depth)
        for item in range(items):
            under = tree.items_of(np.arange(begin[item], end[item]))
            full = depth == len(tree.starts)
            same = (sids[:, : levels if full else depth] == sids[item, : levels if full else depth]).all(1)
            assert sorted(under.tolist()) == np.flatnonzero(same).tolist()


@pytest.mark.parametrize("wrong", [{"window": 0}, {"last": 0}, {"decay": 0.0}, {"smoothing": 0.0}, {"history": "lost"}])
def test_senseless_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ProxyConfig(**wrong)
