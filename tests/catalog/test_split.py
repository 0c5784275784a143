import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from genrecall.catalog import split
from genrecall.catalog.events import Events
from genrecall.catalog.histories import Histories
from genrecall.catalog.store import import_catalog, read_report
from genrecall.errors import ConfigError
from tests.catalog.files import EVENTS, shop

rows_of_items = st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=8)
timed_log = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 30)), min_size=12, max_size=60)


@given(rows_of_items)
@settings(deadline=None, max_examples=60)
def test_leave_one_out_parts_make_the_whole(rows):
    parts = split.leave_one_out(Histories.from_lists(rows))
    whole = [parts.train.of(user).tolist() for user in range(len(rows))]
    for cases in (parts.valid, parts.test):
        for case, user in enumerate(cases.users.tolist()):
            assert cases.histories.of(case).tolist() == whole[user]
            whole[user].append(int(cases.targets[case]))
    assert whole == rows
    assert parts.test.users.tolist() == [user for user, row in enumerate(rows) if len(row) >= 3]


@given(timed_log, st.integers(0, 2))
@settings(deadline=None, max_examples=60)
def test_temporal_never_leaks(log, min_history):
    user, item, time = zip(*log, strict=True)
    histories = Events.of(user, item, time).histories()
    try:
        parts = split.temporal(histories, valid_share=0.2, test_share=0.2, min_history=min_history)
    except ConfigError:
        assume(False)  # too close in time: tested below
    cut = parts.train.times.max()
    found = re.search(r"from (\S+) UTC test targets", parts.rule)
    assert found is not None
    test_cut = int(np.datetime64(found[1], "s").astype(np.int64))
    assert cut < test_cut
    left_out = int(parts.rule.split("; ")[2].split()[0])
    assert len(parts.train.items) + len(parts.valid) + len(parts.test) + left_out == len(log)
    for cases in (parts.valid, parts.test):
        for case, owner in enumerate(cases.users.tolist()):
            history, everything = cases.histories.of(case), histories.of(owner)
            assert len(history) >= min_history
            np.testing.assert_array_equal(history, everything[: len(history)])
            assert everything[len(history)] == cases.targets[case]
            when = histories.times_of(owner)[len(history)]
            assert when > cut
            assert (when >= test_cut) == (cases is parts.test)
            assert (cases.histories.times_of(case) <= when).all()


def test_temporal_says_when_it_cannot_cut():
    with pytest.raises(ConfigError, match="compared between users"):
        split.temporal(Histories.from_lists([[1, 2, 3]]))
    with pytest.raises(ConfigError, match="nothing to train on"):
        split.temporal(Histories.from_lists([[1]], [[1]]), valid_share=0.5, test_share=0.5)
    with pytest.raises(ConfigError, match="too close in time"):
        split.temporal(Histories.from_lists([[1, 2]], [[7, 7]]))
    with pytest.raises(ConfigError, match="too close in time"):
        split.temporal(Histories.from_lists([[]], [[]]))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *((name, 0) for name in ("train", "training", "history", " Train ")),
        *((name, 1) for name in ("valid", "Valid", "val", "validation", "dev", "DEV")),
        *((name, 2) for name in ("test", "Test", "TEST", "test\t", "eval", "evaluate")),
        *((name, None) for name in ("holdout", "tests", "0", " ", "", None)),
    ],
)
def test_names_of_a_source_split(name, part, tmp_path):
    shop(tmp_path, events={**EVENTS, "split": ["train", "train", name, "train", "train", "train"]})
    files = {table: tmp_path / f"{table}.parquet" for table in ("items", "events")}
    catalog = import_catalog(files, tmp_path / "catalog")
    assert catalog.events.split is not None
    if part is None:  # left out and counted: what may be held out must not train
        assert catalog.events.split.tolist() == [0] * 5
        assert read_report(tmp_path / "catalog").find("unknown_split") == 1
    else:
        assert catalog.events.split.tolist() == [0, 0, part, 0, 0, 0]
        assert not read_report(tmp_path / "catalog").problems


def test_source_split_takes_what_stands_before():
    events = Events.of([0, 0, 0, 0, 1], [5, 6, 7, 8, 9], [0, 1, 2, 3, 0], split=[0, 0, 1, 2, 2], timed=False)
    parts = split.source(events)
    assert parts.train.of(0).tolist() == [5, 6]
    assert parts.valid.histories.of(0).tolist() == [5, 6]
    assert parts.test.histories.of(0).tolist() == [5, 6, 7]
    assert parts.test.targets.tolist() == [8]
    assert "; 1 targets with fewer than 1 earlier events are left out" in parts.rule
    assert split.source(events, keep_last=1).test.histories.of(0).tolist() == [7]
    assert split.source(events, min_history=0).test.targets.tolist() == [8, 9]
    with pytest.raises(ConfigError, match="no split of their own"):
        split.source(Events.of([0], [0], [0]))


def test_subset_and_rules():
    parts = split.leave_one_out(Histories.from_lists([[1, 2, 3], [4, 5, 6, 7], [8]]))
    part = parts.test.subset(np.array([1]))
    assert part.users.tolist() == [1]
    assert part.targets.tolist() == [7]
    assert part.histories.of(0).tolist() == [4, 5, 6]
    assert "1 users with fewer than 3 events only train" in parts.rule
    with pytest.raises(ConfigError, match="leave-one-out"):
        split.leave_one_out(parts.train, min_events=2)


def test_parts_are_marked():
    parts = split.leave_one_out(Histories.from_lists([[1, 2, 3], [4, 5, 6]]))
    assert parts.valid.part == "validation"
    assert parts.test.part == parts.test.subset(np.array([0])).part == "test"
    events = Events.of([0, 0, 0, 0, 1], [5, 6, 7, 8, 9], [0, 1, 2, 3, 0], split=[0, 0, 1, 2, 2], timed=False)
    assert (split.source(events).valid.part, split.source(events).test.part) == ("validation", "test")


@given(timed_log, st.booleans(), st.integers(0, 3), st.floats(0.05, 0.9))
@settings(deadline=None, max_examples=60)
def test_held_out_items_are_the_last_to_appear_and_leave_no_trace(log, timed, seed, share):
    user, item, time = zip(*log, strict=True)
    before = split.leave_one_out(Events.of(user, item, time, timed=timed).histories())
    known = np.unique(before.train.items)
    if not 0 < round(share * len(known)) < len(known):
        with pytest.raises(ConfigError, match="share of items"):
            split.hold_out_items(before, share=share)
        return
    after, cold = split.hold_out_items(before, share=share, seed=seed)
    assert len(cold) == round(share * len(known))
    assert not np.isin(after.train.items, cold).any()
    # Exactly their events are gone: row by row the rest stands in the same order, at the same times.
    for row in range(len(before.train)):
        kept = ~np.isin(before.train.of(row), cold)
        np.testing.assert_array_equal(after.train.of(row), before.train.of(row)[kept])
        np.testing.assert_array_equal(after.train.times_of(row), before.train.times_of(row)[kept])
    first = {number: before.train.times[before.train.items == number].min() for number in known.tolist()}
    assert min(first[i] for i in cold.tolist()) >= max(first[i] for i in known.tolist() if i not in cold)
    for mine, theirs in ((after.valid, before.valid), (after.test, before.test)):
        assert mine is theirs
        assert np.isin(mine.of_items(cold).targets, cold).all()
        assert len(mine.of_items(cold)) == np.isin(mine.targets, cold).sum()
    assert f"the {len(cold):,} items that appeared last" in after.rule
    assert ("for want of timestamps" in after.rule) is not timed
    assert np.array_equal(split.hold_out_items(before, share=share, seed=seed)[1], cold)
