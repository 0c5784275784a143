import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.catalog.events import KINDS, Events
from genrecall.catalog.histories import Histories

log = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 3), st.integers(0, len(KINDS) - 1)),
    min_size=1,
    max_size=40,
)


def build(rows, **more):
    user, item, time, kind = zip(*rows, strict=True)
    return Events.of(user, item, time, kind=kind, user_ids=[f"u{n}" for n in range(5)], **more)


def pairs(histories, user):
    return list(zip(histories.times_of(user).tolist(), histories.of(user).tolist(), strict=True))


@given(log, st.integers(-3, 3))
@settings(deadline=None, max_examples=60)
def test_tie_shuffle_moves_only_ties(rows, seed):
    events = build(rows)
    plain, shuffled = events.histories(tie_seed=None), events.histories(tie_seed=seed)
    np.testing.assert_array_equal(plain.offsets, shuffled.offsets)
    np.testing.assert_array_equal(plain.times, shuffled.times)
    for user in range(5):
        assert sorted(pairs(plain, user)) == sorted(pairs(shuffled, user))
        expected = [(t, i) for u, i, t, k in rows if u == user and KINDS[k] in ("click", "cart", "order")]
        assert sorted(expected) == sorted(pairs(plain, user))
        assert [i for _, i in sorted(expected, key=lambda pair: pair[0])] == plain.of(user).tolist()


@given(log, st.randoms(use_true_random=False), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_tie_shuffle_ignores_row_order_and_other_users(rows, random, seed):
    wanted = build(rows).histories(tie_seed=seed)
    mixed = list(rows)
    random.shuffle(mixed)
    np.testing.assert_array_equal(wanted.items, build(mixed).histories(tie_seed=seed).items)
    alone = [row for row in rows if row[0] == rows[0][0]]
    np.testing.assert_array_equal(wanted.of(rows[0][0]), build(alone).histories(tie_seed=seed).of(rows[0][0]))


@given(log)
@settings(deadline=None, max_examples=40)
def test_first_keeps_the_first_event_with_each_item(rows):
    events = build(rows)
    everything, first = events.histories(), events.histories(repeats="first")
    for user in range(5):
        assert first.of(user).tolist() == list(dict.fromkeys(everything.of(user).tolist()))


def test_tie_shuffle_is_fair_and_seeded():
    events = Events.of(np.repeat(np.arange(2000), 2), np.tile([0, 1], 2000), np.zeros(4000))
    starts = [events.histories(tie_seed=seed).items[::2] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])
    assert 0.45 < starts[0].mean() < 0.55


def test_without_times_the_order_of_the_source_stands():
    events = Events.of([0, 0, 0], [2, 1, 0], [0, 0, 0], timed=False)
    assert events.histories(tie_seed=5).of(0).tolist() == [2, 1, 0]


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6), st.integers(0, 4))
@settings(deadline=None, max_examples=40)
def test_ragged_operations_match_lists(rows, n):
    histories = Histories.from_lists(rows)
    assert histories.lengths.tolist() == [len(row) for row in rows]
    assert [histories.last(n).of(row).tolist() for row in range(len(rows))] == [
        row[len(row) - min(n, len(row)) :] for row in rows
    ]
    backwards = histories.take(np.arange(len(rows))[::-1])
    assert [backwards.of(row).tolist() for row in range(len(rows))] == rows[::-1]
    even = histories.select(histories.items % 2 == 0)
    assert [even.of(row).tolist() for row in range(len(rows))] == [[i for i in row if i % 2 == 0] for row in rows]
    assert histories.item_counts(10).tolist() == [sum(row.count(item) for row in rows) for item in range(10)]


def test_exposures_are_no_history_unless_asked_for():
    events = Events.of([0, 0], [1, 2], [5, 6], kind=[KINDS.index("exposure"), KINDS.index("click")])
    assert events.histories().of(0).tolist() == [2]
    assert events.histories(kinds=("exposure",)).of(0).tolist() == [1]


def test_events_must_be_sorted():
    with pytest.raises(AssertionError, match="unsorted"):
        Events(
            user=np.array([0, 0]),
            item=np.array([0, 0]),
            time=np.array([2, 1]),
            kind=np.zeros(2, np.uint8),
            user_ids=["a"],
            timed=True,
        )
