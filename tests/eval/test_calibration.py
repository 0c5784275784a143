from __future__ import annotations

import numpy as np
import pytest

from genrecall.eval.calibration import calibration, confidence
from genrecall.recall.channel import Candidates


def test_confidence_is_mass_or_the_first_score() -> None:
    scores = np.log(np.array([[0.5, 0.25, 0.125], [0.1, 1e-30, 1e-30]])).astype(np.float32)
    scores[1, 1:] = -np.inf
    answer = Candidates(items=np.array([[1, 2, 3], [4, -1, -1]]), scores=scores)
    assert confidence(answer, 2, log_scores=True) == pytest.approx([0.75, 0.1])
    assert confidence(answer, 2, log_scores=False) == pytest.approx(scores[:, 0])


def test_honest_probabilities_have_a_small_error_and_bold_ones_a_large_one() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000) * 0.4
    hits = (rng.random(20_000) < p).astype(float)
    honest = calibration(p, hits, 10, probability=True)
    assert honest.error is not None
    assert honest.error < 0.01
    assert [part.cases for part in honest.bins] == [2000] * 10
    assert np.all(np.diff([part.confidence for part in honest.bins]) > 0)
    bold = calibration(2 * p, hits, 10, probability=True)
    assert bold.error == pytest.approx(0.2, abs=0.01)
    order = calibration(p - 7, hits, 10, probability=False)
    assert order.error is None
    assert [part.hits for part in order.bins] == [part.hits for part in honest.bins]


def test_equal_scores_share_a_bin_and_empty_lists_claim_nothing() -> None:
    told = calibration(np.array([3.0, 3.0, 3.0, -np.inf]), np.array([1.0, 0.0, 0.0, 0.0]), 5, probability=False)
    assert [(part.cases, part.hits) for part in told.bins] == [(3, pytest.approx(1 / 3))]
    assert calibration(np.array([-np.inf]), np.array([0.0]), 5, probability=True).bins == ()
