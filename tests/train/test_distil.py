"""Soft targets against plain loops."""

import numpy as np
import pytest
import torch

from genrecall.errors import CapacityError, ConfigError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from genrecall.train import distil
from genrecall.train.distil import Contexts, Counts, DistilConfig, Teacher

ITEMS = 12
SPACE = SidSpace((3, 4))
SIDS = np.array([[i % 3, i // 3] for i in range(ITEMS)])


def _teacher(last: int | None = None, session_weight: float = 0.25, sharpness: float = 3.0) -> Teacher:
    matrix = np.random.default_rng(0).random((ITEMS, ITEMS)).astype(np.float32)
    matrix[matrix < 0.5] = 0
    np.fill_diagonal(matrix, 0)
    counts = Counts(matrix=matrix, decay=0.9, last=last, session_weight=session_weight)
    return Teacher(counts, Trie.build(SPACE, SIDS), DistilConfig(weight=0.7, sharpness=sharpness))


def _expected(teacher: Teacher, items: list[int], times: list[int]) -> np.ndarray:
    """P over items after these events, by the formula."""
    counts = teacher.counts
    scores = np.zeros(ITEMS)
    read = range(len(items)) if counts.last is None else range(max(len(items) - counts.last, 0), len(items))
    for j in read:
        same = times[j] == times[-1]
        weight = counts.decay ** (len(items) - 1 - j) * (1 if same else counts.session_weight)
        scores += weight * counts.matrix[items[j]]
    scores[items] = 0
    scores = scores**teacher.config.sharpness
    return scores / scores.sum()


@pytest.mark.parametrize("last", [None, 2])
def test_soft_targets_are_those_of_the_formula(last: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil, "_ROWS_AT_ONCE", 5)
    teacher = _teacher(last)
    rows = [([3, 0, 7, 5, 1], [10, 10, 20, 20, 20]), ([2, 9, 4], [5, 6, 6])]
    contexts = Contexts(
        items=[np.array(items) for items, _ in rows], times=[np.array(times) for _, times in rows], targets=[3, 1]
    )
    mass = teacher.mass(contexts, torch.device("cpu"))
    assert mass.shape == (4, ITEMS + 1)
    cases = [(rows[0], 2), (rows[0], 3), (rows[0], 4), (rows[1], 2)]
    for level in range(2):
        true = [items[t] for (items, _), t in cases]
        nodes = teacher.trie.paths(SIDS[true])[:, level]
        distinct, prefix = np.unique(nodes, return_inverse=True)
        soft, trust = teacher.soft(mass, torch.arange(4), distinct, torch.from_numpy(prefix), level)
        for row, ((items, times), t) in enumerate(cases):
            p = _expected(teacher, items[:t], times[:t])
            below = (SIDS[:, :level] == SIDS[items[t], :level]).all(axis=1)
            q = np.array([p[below & (SIDS[:, level] == code)].sum() for code in range(SPACE.codes[level])])
            if q.sum() > 1e-4:
                np.testing.assert_allclose(soft[row].numpy(), q / q.sum(), atol=1e-4)
                assert trust[row] == pytest.approx(0.7)


def test_without_a_past_the_teacher_says_nothing() -> None:
    teacher = _teacher()
    contexts = Contexts(items=[np.array([4, 2])], times=[np.array([1, 2])], targets=[2])
    mass = teacher.mass(contexts, torch.device("cpu"))
    soft, trust = teacher.soft(mass, torch.arange(2), np.array([0]), torch.zeros(2, dtype=torch.int64), 0)
    assert trust[0] == 0
    assert soft[0].sum() == 0
    assert trust[1] == pytest.approx(0.7)
    assert soft[1].sum() == pytest.approx(1, abs=1e-5)


def test_without_times_a_row_is_one_session() -> None:
    teacher, items = _teacher(), [np.array([3, 0, 7, 5]), np.array([2, 9])]
    one = Contexts(items=items, times=[np.zeros(4), np.zeros(2)], targets=[4, 2])
    none = Contexts(items=items, times=[None, None], targets=[4, 2])
    many = Contexts(items=items, times=[np.arange(4), np.arange(2)], targets=[4, 2])
    masses = [teacher.mass(contexts, torch.device("cpu")) for contexts in (one, none, many)]
    assert torch.equal(masses[0], masses[1])
    assert not torch.equal(masses[0], masses[2])


def test_a_target_that_has_been_seen_is_left_to_its_code() -> None:
    teacher = _teacher()
    items, seen = np.array([3, 5, 3, 0, 5]), torch.tensor([False, False, True, False, True])
    contexts = Contexts(items=[items, np.array([0, 1])], times=[None, None], targets=[5, 1])
    mass = teacher.mass(contexts, torch.device("cpu"))
    for level in range(2):
        distinct, prefix = np.unique(teacher.trie.paths(SIDS[items])[:, level], return_inverse=True)
        trust = teacher.soft(mass, torch.arange(5), distinct, torch.from_numpy(prefix), level)[1]
        assert (trust[seen] == 0).all()
        assert level or trust[[1, 3]].tolist() == pytest.approx([0.7, 0.7])
    assert mass[5, -1] == pytest.approx(1)


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in ({"weight": 0.0}, {"weight": 1.5}, {"sharpness": 0.0}):
        with pytest.raises(ConfigError, match="allowed"):
            DistilConfig(**wrong)
    with pytest.raises(CapacityError, match="dense matrix"):
        Counts.require_room(20_000)
    Counts.require_room(18_000)
