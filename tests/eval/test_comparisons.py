from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.eval.comparisons import compare, holm

from .test_harness import Fixed, cases, run


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_what_its_steps_reject(p_values: list[float], level: float) -> None:
    adjusted = holm(p_values)
    rejected = set()
    for step, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        if min(1.0, p_values[place] * (len(p_values) - step)) > level:
            break
        rejected.add(place)
    assert {place for place, p in enumerate(adjusted) if p <= level} == rejected
    assert all(p <= a <= min(1, p * len(p_values)) + 1e-12 for p, a in zip(p_values, adjusted, strict=True))


def test_a_channel_against_every_other() -> None:
    targets = [1 + i % 30 for i in range(90)]
    good = Fixed("good", [[target] for target in targets])
    weak = Fixed("weak", [[target] if place % 3 else [39] for place, target in enumerate(targets)])
    found = compare(run([good, weak, Fixed("twin", good.items)], cases(targets)), "good", ["recall@10", "ndcg@5"])
    assert [(row.second, row.metric) for row in found] == [
        ("weak", "recall@10"), ("weak", "ndcg@5"), ("twin", "recall@10"), ("twin", "ndcg@5"),
    ]  # fmt: skip
    assert found[0].difference.interval.mean == pytest.approx(1 / 3)
    assert found[0].difference.p_value == pytest.approx(2 / 10_001)
    assert found[0].adjusted == pytest.approx(4 * 2 / 10_001)
    assert found[2].adjusted == 1.0
