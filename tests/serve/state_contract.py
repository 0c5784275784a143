"""What every store of users promises."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from genrecall.catalog.store import Catalog
from genrecall.serve.schema import Event
from genrecall.serve.state.state import State

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
    """Commits, erasures and reopenings against dictionaries; a test opens its kind of store."""

    def open(self) -> State:
        """The store, as it was when it was closed; empty at first."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.store = self.open()
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
        self.store = self.open()

    @invariant()
    def agrees(self) -> None:
        assert [event for _, event in self.store.log()] == self.log
        assert self.store.delisted() == self.delisted
        for user in ("a", "a b", "ab", "é", "用户", "z" * 120):
            counted = [e for e in self.log if e.user_id == user and e.item_id and e.event in ("click", "order")]
            expected = sorted(counted, key=lambda e: e.timestamp or 0)
            found = self.store.history(user)
            assert [(past.item_id, past.time) for past in found] == [(e.item_id, e.timestamp) for e in expected]

    @invariant()
    def counts(self) -> None:
        counts = self.store.counts()
        assert (counts["events"], counts["sequence"]) == (len(self.log), self.sequence)
        told = {e.user_id for e in self.log if e.item_id and e.event in ("click", "order")}
        assert self.store.users() == sorted(told, key=str.encode)
        assert self.store.users("a") == sorted((user for user in told if user.startswith("a")), key=str.encode)

    def teardown(self) -> None:
        self.store.close()


def taken_in_once(state: State, run: Path) -> None:
    """A catalog's histories and profiles, and nothing of them twice."""
    catalog = Catalog.load(run / "catalog")
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


def newest_are_kept(state: State) -> None:
    """A history's length is bounded, and its order is that of time."""
    events = [Event(user_id="u", item_id=f"i{number}", timestamp=10_000 - number) for number in range(1100)]
    state.commit([events[:600], events[600:]])
    assert [past.item_id for past in state.history("u")] == [f"i{number}" for number in range(999, -1, -1)]
    state.commit([[Event(user_id="u", item_id="late", timestamp=9_500)]])
    kept = [past.item_id for past in state.history("u")]
    assert len(kept) == 1000
    assert kept[kept.index("late") - 1] == "i500"  # of equal times the later event stands behind
