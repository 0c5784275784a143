"""Requests, widths and batch planning, without tensors."""

from __future__ import annotations

import numpy as np
import pytest

from genrecall.engine.config import EngineConfig
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Request
from genrecall.errors import CapacityError, ConfigError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from tests.engine.models import SIZES, VOCABULARY, make_model, sid_tokens


def test_widths_by_level():
    assert Request(tokens=(1,)).widths(3, 50) == (50, 50, 50)
    assert Request(tokens=(1,), beam=7).widths(2, 50) == (7, 7)
    assert Request(tokens=(1,), beam=(2, 9)).widths(2, 50) == (2, 9)


@pytest.mark.parametrize("beam", [0, -3, (4, 4), (4, 0, 4)])
def test_widths_that_cannot_be_used_are_refused(beam):
    with pytest.raises(ConfigError, match="beam width"):
        Request(tokens=(1,), beam=beam).widths(3, 50)


@pytest.fixture(scope="module")
def engine() -> Engine:
    trie = Trie.build(SidSpace((3, 3)), np.array([[0, 1], [2, 2]], dtype=np.int32))
    return Engine(make_model(), trie, sid_tokens((3, 3)), EngineConfig(device="cpu"))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request(tokens=()), ConfigError),
        (Request(tokens=(1, VOCABULARY)), ConfigError),
        (Request(tokens=(-1,)), ConfigError),
        (Request(tokens=(1,) * SIZES["max_position_embeddings"]), CapacityError),
        (Request(tokens=(1,), allowed=np.ones(3, dtype=bool)), ConfigError),
        (Request(tokens=(1,), allowed=np.ones(2)), ConfigError),
    ],
)
def test_requests_that_the_model_cannot_read_are_refused(engine, request_, error):
    with pytest.raises(error):
        engine.generate([request_])


def test_the_longest_prompt_that_fits_is_answered(engine):
    longest = SIZES["max_position_embeddings"] - 1
    assert len(engine.generate([Request(tokens=(1,) * longest)])[0].sids) == 2


@pytest.mark.parametrize("settings_", [{"normalise": "all"}, {"dtype": "int8"}, {"beam": 0}, {"max_rows": 0}])
def test_engine_settings_are_checked(settings_):
    with pytest.raises(ConfigError):
        EngineConfig(**settings_)
