"""Tables that stay on the host, hot rows before them: answers as of the plain tables, deltas and all."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from genrecall.errors import CapacityError, ConfigError
from genrecall.rank.embedding import Tables
from genrecall.rank.hosted import HostedTable
from genrecall.rank.lists import ListReader
from genrecall.rank.model import NetworkConfig
from genrecall.rank.score import Ranker
from genrecall.rank.update import UpdateConfig, update_tables
from tests.rank import worlds
from tests.rank.test_model import ranker

CPU = torch.device("cpu")


def test_lookups_and_writes_equal_a_plain_table() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(3000, 16, generator=generator).half()
    hosted = HostedTable(plain.clone(), CPU, cache_bytes=20_000)
    assert 100 < hosted.cache_rows < 600
    for turn in range(40):
        rows = (torch.rand(5, 30, generator=generator) ** 3 * 3000).long()
        assert torch.equal(hosted.look(rows), plain[rows])
        if turn % 4 == 3:
            changed = torch.unique((torch.rand(60, generator=generator) ** 3 * 3000).long())
            values = torch.randn(len(changed), 16, generator=generator)
            plain[changed] = values.half()
            hosted.write(changed, values)
    assert 0.3 < hosted.hit_rate() < 1
    hosted.count_anew()
    hosted.look(torch.tensor([7]))
    hosted.look(torch.tensor([7]))
    assert hosted.hit_rate() >= 0.5


@pytest.mark.parametrize("room", [0, 600, 4000])
def test_a_ranker_with_little_room_answers_alike(tmp_path: Path, room: int) -> None:
    found = ranker(NetworkConfig(joint=3))
    found.save(tmp_path, half=True)
    plain, narrow = Ranker.load(tmp_path, device="cpu"), Ranker.load(tmp_path, device="cpu", room=room)
    assert not plain.tables.hosted
    assert len(narrow.tables.hosted) == {0: 10, 600: 4, 4000: 0}[room]
    for seed in range(4):
        asked = worlds.asked(6, seed)
        np.testing.assert_array_equal(narrow.score(asked).logits, plain.score(asked).logits)
    for version in (1, 2):
        rows = torch.arange(version, worlds.ITEMS, 2)
        changes = {"item": (rows, torch.randn(len(rows), 4)), "colours": (torch.tensor([3]), torch.randn(1, 3))}
        for one in (plain, narrow):
            one.tables.write(changes, version)
        asked = worlds.asked(6, version)
        first, second = plain.score(asked), narrow.score(asked)
        assert first.version == second.version == version
        np.testing.assert_array_equal(first.logits, second.logits)


def test_no_answer_mixes_versions() -> None:
    tables = Tables({"a": torch.zeros(200, 4), "b": torch.zeros(200, 4)}).serve_on(CPU, room=2000)
    assert set(tables.hosted) == {"a", "b"}
    rows, enough = torch.arange(200), threading.Event()

    def write() -> None:
        for version in itertools.count(1):
            value = torch.full((200, 4), float(version))
            tables.write({"a": (rows, value), "b": (rows, value)}, version)
            if enough.wait(0.001):
                return

    writer = threading.Thread(target=write)
    writer.start()
    seen, until = set(), time.monotonic() + 30
    try:
        while len(seen) < 20 and time.monotonic() < until:
            with tables.reading() as version:
                found = torch.cat([tables.look("a", rows), tables.look("b", rows.flip(0))])
            assert found.eq(version).all()
            seen.add(version)
    finally:
        enough.set()
        writer.join()
    assert len(seen) == 20


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match="tell apart"):
        HostedTable(torch.empty(2**31, 1, dtype=torch.float16, device="meta"), CPU, 1000)
    ranker(NetworkConfig(joint=3)).save(tmp_path)
    narrow = Ranker.load(tmp_path, device="cpu", room=0)
    with pytest.raises(ConfigError, match="cannot learn"):
        update_tables(narrow, ListReader.__new__(ListReader), UpdateConfig())


@pytest.mark.gpu
def test_on_a_gpu_rows_come_from_pinned_memory() -> None:
    device, generator = torch.device("cuda"), torch.Generator().manual_seed(0)
    plain = torch.randn(1_000_000, 16, generator=generator).half()
    tables = Tables({"t": plain.clone()}).serve_on(device, room=1 << 20)
    hosted = tables.hosted["t"]
    assert hosted.table.is_pinned()
    for turn in range(20):
        rows = (torch.rand(20_000, generator=generator) ** 6 * 1_000_000).long()
        with tables.reading():
            found = tables.look("t", rows.to(device))
        changed = torch.unique(rows[:500])
        values = torch.randn(len(changed), 16, generator=generator)
        tables.write({"t": (changed, values)}, turn + 1)  # what was launched before still reads the old rows
        torch.cuda.synchronize()
        assert torch.equal(found.cpu().half(), plain[rows])
        plain[changed] = values.half()
    assert hosted.hit_rate() > 0.3
