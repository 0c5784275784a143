"""What is learnt of batches that requests left between levels: what ran, not what was planned."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.engine.host.step import Load
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from tests.engine.models import make_model, sid_tokens

SPACE, REQUESTS, BEAM = SidSpace((6, 6, 6)), 4, 6
WHOLE = 2 * BEAM  # rows of a request: those of the last level are not run


class _Watched:
    """An engine, what its cost model is taught, and what others are told of its batches."""

    def __init__(self, **config: Any) -> None:
        sids = np.random.default_rng(3).integers(0, 6, size=(200, 3)).astype(np.int32)
        settings = EngineConfig(device="cpu", **config)
        self.engine = Engine(make_model(), Trie.build(SPACE, sids), sid_tokens(SPACE.codes), settings)
        self.taught, self.told = list[tuple[Load, float]](), list[tuple[int, float]]()
        self.cost, self._learn = self.engine.loop.scheduler.cost, self.engine.loop.scheduler.cost.observe
        self.cost.observe = self._observe  # type: ignore[method-assign]
        self.engine.loop.landed = lambda rows, seconds: self.told.append((rows, seconds))

    def _observe(self, load: Load, seconds: float) -> None:
        self.taught.append((load, seconds))
        self._learn(load, seconds)

    def batch(self, left: int = 0, before: int = 1) -> None:
        """One batch, of which ``left`` requests are given up before this level."""
        outcomes: dict[int, Any] = {}
        asked = [Request(tokens=(1, 2, 3), beam=BEAM) for _ in range(REQUESTS)]
        numbers = [self.engine.submit(one, partial(outcomes.__setitem__, n)) for n, one in enumerate(asked)]
        looked = []

        def meanwhile() -> None:
            looked.append(len(looked) + 1)
            if looked[-1] == before:
                for number in numbers[:left]:
                    assert self.engine.cancel(number)

        self.engine.loop.meanwhile = meanwhile
        while len(outcomes) < REQUESTS:
            self.engine.advance()


@pytest.mark.parametrize(("before", "ran"), [(1, 0), (2, BEAM)])
def test_rows_that_did_not_run_are_not_counted(before: int, ran: int) -> None:
    watched = _Watched()
    watched.batch()
    watched.batch(left=3, before=before)
    whole, cut = (load for load, _ in watched.taught)
    assert whole.rows == REQUESTS * WHOLE
    assert cut.rows == WHOLE + 3 * ran
    assert cut.pairs < whole.pairs
    assert (cut.requests, cut.tokens) == (whole.requests, whole.tokens)


def test_rows_that_run_on_for_nothing_are_counted() -> None:
    watched = _Watched(forced="run")
    watched.batch(left=3)
    assert watched.taught[0][0].rows == REQUESTS * WHOLE


def test_others_are_told_what_the_whole_batch_would_have_taken() -> None:
    watched = _Watched()
    watched.batch(left=REQUESTS)
    assert watched.told == [], "nothing is known of whole batches yet"
    while not watched.cost.ready:
        watched.batch(left=len(watched.taught) % REQUESTS)
    watched.cost.seconds = lambda load: 1.0 + load.rows  # type: ignore[method-assign]
    watched.batch()
    watched.batch(left=REQUESTS)
    (_, whole_s), (cut, cut_s) = watched.taught[-2:]
    assert cut.rows == 0
    assert watched.told[-2:] == [(REQUESTS * BEAM, whole_s), (REQUESTS * BEAM, cut_s * (1.0 + REQUESTS * WHOLE))]
