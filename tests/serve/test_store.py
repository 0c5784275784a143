"""The user state against a plain model, and against being killed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from genrecall.catalog.store import Catalog
from genrecall.serve.schema import Event
from genrecall.serve.state.store import Past, UserState, shown

users = st.sampled_from(["a", "a b", "ab", "é", "用户", "z" * 120])
events = st.builds(
    Event,
    user_id=users,
    item_id=st.none() | st.sampled_from(["i1", "i2", "物"]),
    event=st.sampled_from(["click", "order", "exposure", "query"]),
    timestamp=st.integers(0, 5),
    event_id=st.none() | st.sampled_from(["e1", "e2", "e3"]),
)


class StoreMachine(RuleBasedStateMachine):
    """Commits, erasures and reopenings against dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.store = UserState(self.directory)
        self.log: list[Event] = []
        self.once: set[tuple[str, str]] = set()
        self.sequence = 0
        self.delisted: set[str] = set()

    @rule(batches=st.lists(st.lists(events, min_size=1, max_size=4), min_size=1, max_size=3))
    def commit(self, batches: list[list[Event]]) -> None:
        outcomes = self.store.commit(batches)
        for batch, outcome in zip(batches, outcomes, strict=True):
            new = 0
            for event in batch:
                key = (event.user_id, event.event_id or "")
                if event.event_id is not None and key in self.once:
                    continue
                if event.event_id is not None:
                    self.once.add(key)
                self.log.append(event)
                new += 1
            self.sequence += new
            assert (outcome.accepted, outcome.duplicates, outcome.sequence) == (new, len(batch) - new, self.sequence)

    @rule(user=users)
    def forget(self, user: str) -> None:
        erased = self.store.forget(user)
        assert erased == sum(event.user_id == user for event in self.log)
        self.log = [event for event in self.log if event.user_id != user]
        self.once = {key for key in self.once if key[0] != user}

    @rule(items=st.lists(st.sampled_from(["i1", "i2", "物"]), max_size=3), out=st.booleans())
    def delist(self, items: list[str], out: bool) -> None:
        self.store.delist(items, delisted=out)
        self.delisted = self.delisted | set(items) if out else self.delisted - set(items)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = UserState(self.directory)

    @invariant()
    def agrees(self) -> None:
        assert [event for _, event in self.store.log()] == self.log
        assert self.store.delisted() == self.delisted
        for user in ("a", "a b", "ab", "é", "用户", "z" * 120):
            counted = [e for e in self.log if e.user_id == user and e.item_id and e.event in ("click", "order")]
            expected = sorted(counted, key=lambda e: e.timestamp or 0)
            found = self.store.history(user)
            assert [(past.item_id, past.time) for past in found] == [(e.item_id, e.timestamp) for e in expected]

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


def test_a_map_that_is_too_small_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genrecall.serve.state import store

    monkeypatch.setattr(store, "_FIRST_MAP_BYTES", 1 << 17)
    state = UserState(tmp_path)
    for number in range(40):
        state.commit([[Event(user_id=f"u{number}", item_id=f"i{place}", timestamp=place) for place in range(100)]])
    assert state.counts() == {"events": 4000, "users": 40, "sequence": 4000}
    state.close()


def test_a_catalogs_histories_are_taken_in_once(run: Path, tmp_path: Path) -> None:
    catalog, state = Catalog.load(run / "catalog"), UserState(tmp_path)
    assert state.seed(catalog, None) == 60
    state.commit([[Event(user_id="u3", item_id="i9")]])
    before = state.history("u3")
    assert state.seed(catalog, None) == 0
    assert state.history("u3") == before
    assert [past.item_id for past in before[:-1]] == [
        catalog.items.ids[item] for item in catalog.events.histories("keep", None).of(catalog.user_index["u3"])
    ]
    assert state.profile("u3") == {"country": "France"}
    assert state.users("u1") == ["u1", *[f"u1{n}" for n in range(10)]]
    state.close()


def test_histories_are_shown_as_the_model_read_them() -> None:
    pasts = [Past("a", 1, 0), Past("b", 2, 0), Past("a", 3, 0)]
    assert [past.item_id for past in shown(pasts, {"repeats": "first"})] == ["a", "b"]
    assert [past.item_id for past in shown(pasts, {"repeats": "keep"})] == ["a", "b", "a"]


_WRITER = """
import sys
from pathlib import Path
from genrecall.serve.schema import Event
from genrecall.serve.state.store import UserState
state, first = UserState(Path(sys.argv[1])), int(sys.argv[2])
print("open", flush=True)
for number in range(first, first + 100000):
    state.commit([[Event(user_id=f"u{number % 7}", item_id=f"i{number}", event_id=str(number))]])
    print(number, flush=True)
"""


@pytest.mark.slow
def test_no_acknowledged_event_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    for round_ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), str(round_ * 1_000_000)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        for _ in range(1 + 7 * round_):
            acknowledged.append(int(process.stdout.readline()))
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.wait()
        state = UserState(tmp_path)
        stored = [int(event.event_id or "") for _, event in state.log()]
        assert len(set(stored)) == len(stored)
        assert set(acknowledged) <= set(stored)
        assert len(set(stored) - set(acknowledged)) <= round_ + 1  # the one in flight at each kill, at most
        histories = [past.item_id for n in range(7) for past in state.history(f"u{n}")]
        assert sorted(histories) == sorted(f"i{number}" for number in stored)
        state.close()
