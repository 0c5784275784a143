"""Frames and messages between our own processes: whatever arrives is a message or an error, never more."""

import asyncio
import contextlib
import socket

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from genrecall.serve.worker import frames
from genrecall.serve.worker.messages import (
    Ask,
    Beat,
    Cancel,
    Failed,
    Found,
    Opened,
    Traced,
    decode_inward,
    decode_outward,
    encode,
)

numbers = st.integers(0, 2**53)
seconds = st.floats(0, 1e6)
inward = st.one_of(
    st.builds(
        Ask, numbers, st.binary(max_size=40), st.none() | st.binary(max_size=40), st.binary(max_size=40),
        st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), st.none() | st.text(max_size=20),
        numbers, numbers, st.booleans(), seconds,
    ),
    st.builds(Cancel, numbers),
)  # fmt: skip
beams = st.lists(
    st.lists(st.builds(Traced, st.lists(numbers, max_size=4), seconds, numbers, numbers), max_size=3), max_size=3
)
outward = st.one_of(
    st.builds(
        Found, numbers, st.binary(max_size=40), st.binary(max_size=40), seconds, seconds, numbers, st.booleans(),
        st.none() | beams,
    ),
    st.builds(Failed, numbers, st.text(max_size=9), st.text(max_size=9)),
    st.builds(Beat, numbers, numbers, st.lists(numbers, max_size=5)),
    st.builds(Opened, st.text(max_size=9), st.text(max_size=9), seconds, seconds, numbers, st.booleans()),
)  # fmt: skip


@given(inward, outward)
def test_messages_come_back(one: Ask | Cancel, other: Opened | Found | Failed | Beat) -> None:
    assert decode_inward(encode(one)) == one
    assert decode_outward(encode(other)) == other


@given(st.binary(max_size=200))
@example(b"\x91\xa4\x00\x00\x00\x80")  # a text that is not UTF-8: msgspec lets the codec's own error through
def test_bytes_are_a_message_or_an_error(body: bytes) -> None:
    for decode in (decode_inward, decode_outward):
        with contextlib.suppress(frames.FrameError):
            decode(body)


@given(st.lists(st.binary(max_size=60), max_size=6), st.integers(1, 17), st.integers(0, 5))
def test_frames_come_back_however_they_are_cut(bodies: list[bytes], piece: int, missing: int) -> None:
    stream = b"".join(frames.packed(body) for body in bodies)
    stream = stream[: len(stream) - missing] if bodies else stream

    async def read() -> list[bytes]:
        reader, found = asyncio.StreamReader(), []
        for begin in range(0, len(stream), piece):
            reader.feed_data(stream[begin : begin + piece])
        reader.feed_eof()
        while (body := await frames.read(reader)) is not None:
            found.append(body)
        return found

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(stream)
        ours.shutdown(socket.SHUT_WR)
        received = []
        while (body := frames.receive(theirs)) is not None:
            received.append(body)
    whole = bodies if not missing else received
    assert asyncio.run(read()) == received == whole
    assert received == bodies[: len(received)]


def test_an_impossible_length_is_refused_before_anything_is_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frames.HEADER.pack(frames.MAX_BYTES + 1))
        with pytest.raises(frames.FrameError):
            frames.receive(theirs)


def test_item_lists_travel_as_integers() -> None:
    history, times = np.array([3, 1, 2], "<i4"), np.array([7, 8, 9], "<i8")
    ask = Ask(1, history.tobytes(), times.tobytes(), b"", {"a": "b"}, None, 5, 4, False, 1.0)
    query = decode_inward(encode(ask)).query()  # type: ignore[union-attr]
    assert query.history.tolist() == [3, 1, 2]
    assert query.times is not None
    assert query.times.tolist() == [7, 8, 9]
    assert len(query.exclude) == 0
