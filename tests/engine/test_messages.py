"""What rank 0 tells arrives as it was, bytes in between."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.engine.device.scoring import Candidates, held
from genrecall.engine.host.step import Kind, Seat, StepPlan
from genrecall.engine.messages import (
    candidate_arrays,
    candidates_of,
    plan_head,
    plan_of,
    prompts_of,
    tails,
    trie_arrays,
    trie_of,
)
from genrecall.engine.worker.frames import Frame, decode, encode
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace


def sent(frame: Frame) -> Frame:
    data = encode(frame)
    return decode(data[8:], int.from_bytes(data[4:8], "little"))


seats = st.builds(
    lambda job, prompt, cached, rows: (job, prompt, min(cached, len(prompt) - 1), rows),
    st.integers(0, 99), st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(0, 9),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
)  # fmt: skip


@given(st.lists(seats, min_size=1, max_size=4), st.sampled_from(list(Kind)))
@settings(max_examples=40, deadline=None)
def test_plans_and_the_tokens_that_are_read(given_seats, kind) -> None:
    plan = StepPlan(
        kind=kind,
        catalog=3,
        seats=tuple(
            Seat(job=job, length=len(prompt), cached=cached, pages=tuple(range(1, 3)), rows=rows)
            for job, prompt, cached, rows in given_seats
        ),
    )
    prompts = [prompt for _, prompt, _, _ in given_seats]
    frame = sent(Frame(head={"kind": "launch", **plan_head(plan, plan.sizes)}, arrays={"tokens": tails(plan, prompts)}))
    found, sizes = plan_of(frame.head)
    assert sizes == plan.sizes
    assert (found.kind, found.catalog, found.seats) == (plan.kind, plan.catalog, plan.seats)
    read = prompts_of(found, frame.arrays)
    for seat, ours, theirs in zip(plan.seats, read, prompts, strict=True):
        assert len(ours) == len(theirs)
        assert ours[seat.cached :] == theirs[seat.cached :]


@given(st.integers(1, 40), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_catalogs_and_candidates(items, seed) -> None:
    space = SidSpace((3, 4, 2))
    rng = np.random.default_rng(seed)
    trie = Trie.build(space, np.stack([rng.integers(0, size, items) for size in space.codes], 1).astype(np.int32))
    frame = sent(Frame(head={"codes": space.codes}, arrays=trie_arrays(trie)))
    again = trie_of(frame)
    for name, array in vars(trie).items():
        if isinstance(array, np.ndarray):
            assert array.dtype == vars(again)[name].dtype
            np.testing.assert_array_equal(array, vars(again)[name])
    codes = np.stack([rng.integers(0, size, 6) for size in space.codes], 1)
    paths = trie.paths(codes)
    wanted = [Candidates.of(codes[part], paths[part], trie, "trie") for part in np.array_split(held(paths), 2)]
    sizes, arrays = candidate_arrays(wanted)
    frame = sent(Frame(head={"sizes": sizes}, arrays=arrays))
    for ours, theirs in zip(candidates_of(frame.head["sizes"], frame.arrays, 3), wanted, strict=True):
        np.testing.assert_array_equal(ours.codes, theirs.codes)
        np.testing.assert_array_equal(ours.paths, theirs.paths)
        assert [list(nodes) for nodes in ours.prefixes] == [list(nodes) for nodes in theirs.prefixes]
