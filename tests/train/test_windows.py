import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrecall.train.windows import batches, cut, singles


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    capacity=st.integers(1, 12),
    context=st.integers(0, 11),
    epoch=st.integers(0, 3),
)
def test_every_event_is_a_target_once_and_has_the_context_promised(lengths, capacity, context, epoch):
    context = min(context, capacity - 1)
    windows = cut(np.array(lengths), capacity=capacity, context=context, seed=1, epoch=epoch)
    seen = [
        (u, e)
        for u, f, end in zip(windows.users, windows.first_target, windows.end, strict=True)
        for e in range(f, end)
    ]
    assert sorted(seen) == [(u, e) for u, n in enumerate(lengths) for e in range(n)]
    assert (windows.end - windows.begin <= capacity).all()
    assert (windows.targets > 0).all()
    later = windows.first_target > 0
    assert (windows.first_target - windows.begin)[later].min(initial=context) >= context
    assert (windows.begin[~later] == 0).all()


def test_borders_move_between_epochs_and_repeat_for_equal_seeds():
    def borders(seed, epoch):
        return cut(np.full(9, 60), capacity=10, context=2, seed=seed, epoch=epoch).end.tolist()

    assert borders(0, 0) == borders(0, 0)
    assert borders(0, 0) != borders(0, 1)
    assert borders(0, 0) != borders(1, 0)


@given(
    sizes=st.lists(st.integers(1, 50), max_size=60),
    budget=st.integers(1, 200),
    padded=st.booleans(),
    epoch=st.integers(0, 2),
)
def test_batches_hold_every_row_once_within_the_budget(sizes, budget, padded, epoch):
    sizes = np.array(sizes, dtype=np.int64)
    groups = batches(sizes, budget=budget, padded=padded, seed=0, epoch=epoch)
    assert sorted(np.concatenate([*groups, []]).astype(int).tolist()) == list(range(len(sizes)))
    for group in groups:
        cost = sizes[group].max() * len(group) if padded else sizes[group].sum()
        assert len(group) == 1 or cost <= budget


def test_singles():
    windows = singles(np.array([2, 0, 1]))
    assert windows.users.tolist() == [0, 0, 2]
    assert windows.end.tolist() == [1, 2, 1]
    assert windows.targets.tolist() == [1, 1, 1]
