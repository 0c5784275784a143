"""Copies between pages and slots: whatever order they are decided in, a page comes back as it went."""

from __future__ import annotations

import pytest
import torch

from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.host_tier import HostTier
from genrecall.engine.device.memory import PromptMemory
from genrecall.engine.host.tier import Move, Way
from tests.engine.models import make_model

PAGES = 12


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def memory(request) -> PromptMemory:
    shape = Architecture.read(make_model())
    found = PromptMemory(shape, pages=PAGES, page_tokens=4, dtype=torch.float32, device=torch.device(request.param))
    for tensor in (*found.keys, *found.values):
        tensor.normal_()
    return found


def offload(pairs: list[tuple[int, int]]) -> list[Move]:
    return [Move(Way.OFFLOAD, page, slot) for page, slot in pairs]


def onboard(pairs: list[tuple[int, int]]) -> list[Move]:
    return [Move(Way.ONBOARD, page, slot) for page, slot in pairs]


def test_pages_go_to_scattered_slots_and_back(memory):
    tier = HostTier(memory, 9)
    before = memory.read(list(range(PAGES))).cpu()
    slots = [7, 0, 8, 1, 4]
    tier.run(offload(list(zip([3, 5, 1, 9, 11], slots, strict=True))))
    tier.wait()
    memory.wipe([3, 5, 1, 9, 11])
    tier.fence()
    tier.run(onboard(list(zip([2, 4, 6, 8, 10], slots, strict=True))))
    tier.wait()
    after = memory.read(list(range(PAGES))).cpu()
    assert torch.equal(after[[2, 4, 6, 8, 10]], before[[3, 5, 1, 9, 11]])
    assert not after[[3, 5, 1, 9, 11]].any()
    assert torch.equal(after[[0, 7]], before[[0, 7]])


def test_copies_are_done_in_the_order_in_which_they_were_decided(memory):
    """A slot that is dropped and taken again holds what came last; a page that came back may take its place."""
    tier = HostTier(memory, 3)
    before = memory.read(list(range(PAGES))).cpu()
    moves = offload([(1, 1), (2, 0), (3, 1), (4, 2)]) + onboard([(5, 1), (6, 0)]) + offload([(7, 1), (5, 0)])
    tier.run(moves + onboard([(8, 1), (9, 0), (10, 2)]))
    tier.wait()
    after = memory.read(list(range(PAGES))).cpu()
    for page, source in ((5, 3), (6, 2), (8, 7), (9, 3), (10, 4)):
        assert torch.equal(after[page], before[source]), page
