"""What rank 0 tells arrives as it was, bytes in between."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.engine.device.beams import SearchShape
from genrecall.engine.device.scoring import ForestShape
from genrecall.engine.host.step import Sizes
from genrecall.engine.messages import Inbox, announced, sizes_of, told, trie_arrays, trie_of
from genrecall.engine.worker.frames import Frame, decode, encode
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace


def sent(frame: Frame) -> Frame:
    data = encode(frame)
    return decode(data[8:], int.from_bytes(data[4:8], "little"))


def test_sizes_are_as_they_were() -> None:
    shape = SearchShape((8, 16), 8, (3, 4), filtered=True, sampled=False, capped=False, compact=True)
    forest = ForestShape(2, (8, 0), 16, 4)
    assert forest.size > 0  # what is cached in it does not travel
    for one in (Sizes(2, 16, 40, (8, 16), 8), shape, forest):
        assert sizes_of(type(one), sent(Frame(head={"shape": told(one)})).head["shape"]) == one


@given(st.integers(1, 40), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_catalogs(items, seed) -> None:
    space = SidSpace((3, 4, 2))
    rng = np.random.default_rng(seed)
    trie = Trie.build(space, np.stack([rng.integers(0, size, items) for size in space.codes], 1).astype(np.int32))
    frame = sent(Frame(head={"codes": space.codes}, arrays=trie_arrays(trie)))
    again = trie_of(frame)
    for name, array in vars(trie).items():
        if isinstance(array, np.ndarray):
            assert array.dtype == vars(again)[name].dtype
            np.testing.assert_array_equal(array, vars(again)[name])


def test_an_inbox_tells_batches_from_frames_and_knows_an_end():
    read, write = os.pipe()
    batch, candidates = np.arange(4000, dtype=np.int32), np.arange(5, dtype=np.int32)
    with open(read, "rb", buffering=0) as pipe, open(write, "wb", buffering=0) as told:
        inbox = Inbox(pipe)
        told.write(announced(9) + batch.tobytes() + encode(Frame(head={"kind": "like"}, arrays={"bits": batch})))
        told.write(announced(0) + batch.tobytes() + candidates.tobytes())
        inbox.watch(0.0)
        found, few = np.empty_like(batch), np.empty_like(candidates)
        assert inbox.receive() == 9
        assert inbox.read(found)
        np.testing.assert_array_equal(found, batch)
        frame = inbox.receive()
        assert isinstance(frame, Frame)
        assert inbox.receive() == 0
        assert inbox.read(found)
        assert inbox.read(few)
        np.testing.assert_array_equal(few, candidates)
        np.testing.assert_array_equal(frame.arrays["bits"], batch, "frames outlive the message after them")
        told.write(announced(9) + batch.tobytes()[:-1])
        told.close()
        assert inbox.receive() == 9
        assert not inbox.read(found), "cut off"
        assert inbox.receive() is None
