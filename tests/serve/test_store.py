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

from genrecall.serve.schema import Event
from genrecall.serve.state.store import Past, UserState, shown
from tests.serve.state_contract import StoreMachine, newest_are_kept, taken_in_once


class LmdbMachine(StoreMachine):
    """Over a directory."""

    directory: Path | None = None

    def open(self) -> UserState:
        self.directory = self.directory or Path(tempfile.mkdtemp())
        return UserState(self.directory)

    def teardown(self) -> None:
        super().teardown()
        assert self.directory is not None
        shutil.rmtree(self.directory)


TestStore = LmdbMachine.TestCase
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
    state = UserState(tmp_path)
    taken_in_once(state, run)
    state.close()


def test_the_newest_events_are_kept(tmp_path: Path) -> None:
    state = UserState(tmp_path)
    newest_are_kept(state)
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
