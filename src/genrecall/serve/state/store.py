"""User state in LMDB: the event log, and the histories that follow from it, in one transaction.

    events    sequence (8 bytes, big-endian)  →  the event
    by_user   user 0x00 sequence              →  (nothing): the way back, for erasure
    once      BLAKE2b of an event's key       →  sequence: an event is counted once
    history   user                            →  the newest events that count as history, oldest first
    profile   user                            →  columns by name
    delisted  item                            →  (nothing)
    facts     name                            →  a number or a text

A commit returns after LMDB has flushed to disk, so that what was acknowledged survives any kill; a reader sees a batch
whole or not at all.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from genrecall.catalog.events import KINDS, POSITIVE
from genrecall.errors import ArtifactError, DependencyError
from genrecall.serve.schema import Event

if TYPE_CHECKING:
    from genrecall.catalog.store import Catalog

HISTORY_EVENTS = 1000
_FIRST_MAP_BYTES, _SHARED_MAP_BYTES = 1 << 28, 1 << 40
_NAMES = (b"events", b"by_user", b"once", b"history", b"profile", b"delisted", b"facts")
_SEQUENCE = 8
_LONGEST_KEY = 480
POSITIVES = frozenset(POSITIVE)


class Past(msgspec.Struct, array_like=True, frozen=True):
    """One event of a history."""

    item_id: str
    time: int
    kind: int


_encode = msgspec.msgpack.Encoder().encode
_pasts = msgspec.msgpack.Decoder(list[Past]).decode
_event = msgspec.msgpack.Decoder(Event).decode
_profile = msgspec.msgpack.Decoder(dict[str, str]).decode


@dataclass(frozen=True, kw_only=True)
class Committed:
    """What became of one batch: events that were new and that were known; the log's newest sequence number."""

    accepted: int
    duplicates: int
    sequence: int


class UserState:
    """The store of one service; of several processes that write, LMDB lets one after the other.

    Args:
        directory: is made where it is missing.
        shared: other processes write, too. The map is then made so large at once that none ever has to enlarge it under
            another's feet; addresses cost nothing.
    """

    remote = False

    def __init__(self, directory: Path, *, shared: bool = False) -> None:
        self._lmdb = _lmdb()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._env = self._lmdb.open(
                str(directory),
                max_dbs=len(_NAMES),
                map_size=_SHARED_MAP_BYTES if shared else _FIRST_MAP_BYTES,
                max_readers=512,
                mode=0o600,
                metasync=True,
                sync=True,
            )
        except self._lmdb.Error as error:
            raise ArtifactError(
                "the user state cannot be opened",
                seen=f"{directory}: {error}",
                allowed="a directory that this version wrote, on a disk with room",
                fix="give another --state, or restore this one from a copy",
            ) from error
        self._env.reader_check()  # readers of killed processes would keep pages for ever
        self._dbs = {name: self._env.open_db(name) for name in _NAMES}

    def close(self) -> None:
        """Release the files."""
        self._env.close()

    def commit(self, batches: Sequence[Sequence[Event]]) -> list[Committed]:
        """Store several batches in one transaction and flush it to disk; all of them or none."""
        return self._grown(lambda: self._commit(batches))

    def history(self, user_id: str) -> list[Past]:
        """Events of a user that count as history, oldest first; empty for an unknown one."""
        with self._env.begin(db=self._dbs[b"history"], buffers=True) as txn:
            found = txn.get(user_id.encode())
            return [] if found is None else _pasts(found)

    def known(self, user_id: str) -> tuple[list[Past], dict[str, str]]:
        """History and profile, as of one moment."""
        user = user_id.encode()
        with self._env.begin(buffers=True) as txn:
            pasts, profile = (txn.get(user, db=self._dbs[name]) for name in (b"history", b"profile"))
            return [] if pasts is None else _pasts(pasts), {} if profile is None else _profile(profile)

    def profile(self, user_id: str) -> dict[str, str]:
        """Profile columns of a user; empty for an unknown one."""
        with self._env.begin(db=self._dbs[b"profile"], buffers=True) as txn:
            found = txn.get(user_id.encode())
            return {} if found is None else _profile(found)

    def users(self, prefix: str = "", limit: int = 20) -> list[str]:
        """Ids of users with a history that begin with ``prefix``, in byte order."""
        start, found = prefix.encode(), list[str]()
        with self._env.begin(db=self._dbs[b"history"]) as txn, txn.cursor() as cursor:
            ok = cursor.set_range(start) if start else cursor.first()
            while ok and len(found) < limit and cursor.key().startswith(start):
                found.append(cursor.key().decode())
                ok = cursor.next()
        return found

    def counts(self) -> dict[str, int]:
        """How many events and users are stored, and the newest sequence number."""
        with self._env.begin() as txn:
            return {
                "events": txn.stat(self._dbs[b"events"])["entries"],
                "users": txn.stat(self._dbs[b"history"])["entries"],
                "sequence": self._last(txn),
            }

    def log(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """The event log, oldest first."""
        with self._env.begin(db=self._dbs[b"events"]) as txn, txn.cursor() as cursor:
            ok = cursor.set_range((after + 1).to_bytes(_SEQUENCE, "big"))
            while ok:
                yield int.from_bytes(cursor.key(), "big"), _event(cursor.value())
                ok = cursor.next()

    def forget(self, user_id: str) -> int:
        """Erase all that is known of a user; how many events that were."""
        return self._grown(lambda: self._forget(user_id))

    def delist(self, item_ids: Iterable[str], *, delisted: bool = True) -> None:
        """Take items out of all answers, or back in; on disk when it returns."""

        def write() -> None:
            with self._env.begin(db=self._dbs[b"delisted"], write=True) as txn:
                for item_id in item_ids:
                    if delisted:
                        txn.put(item_id.encode(), b"")
                    else:
                        txn.delete(item_id.encode())

        self._grown(write)

    def delisted(self) -> set[str]:
        """Items that must not be answered."""
        with self._env.begin(db=self._dbs[b"delisted"]) as txn, txn.cursor() as cursor:
            return {key.decode() for key in cursor.iternext(keys=True, values=False)}

    def seed(self, catalog: Catalog, tie_seed: int | None) -> int:
        """Take in the histories and profiles of a catalog, once; users that are known already keep theirs.

        Args:
            catalog: with events.
            tie_seed: of the bundle's split: events of one time stand in the order that the model was trained on.

        Returns:
            How many users were taken in.
        """
        fact = b"seeded " + catalog.digest.encode()
        with self._env.begin(db=self._dbs[b"facts"]) as txn:
            if txn.get(fact) is not None:
                return 0
        rows = list(seeded_histories(catalog, tie_seed))

        def write() -> int:
            with self._env.begin(write=True) as txn:
                for user_id, pasts, profile in rows:
                    key = user_id.encode()
                    txn.put(key, _encode(pasts), db=self._dbs[b"history"], overwrite=False)
                    if profile:
                        txn.put(key, _encode(profile), db=self._dbs[b"profile"], overwrite=False)
                txn.put(fact, str(len(rows)).encode(), db=self._dbs[b"facts"])
            return len(rows)

        return self._grown(write)

    def _commit(self, batches: Sequence[Sequence[Event]]) -> list[Committed]:
        now, outcomes = int(time.time()), []
        changed: dict[str, list[Past]] = {}
        with self._env.begin(write=True) as txn:
            sequence = self._last(txn)
            for batch in batches:
                duplicates = 0
                for event in batch:
                    stored = event if event.timestamp is not None else msgspec.structs.replace(event, timestamp=now)
                    number = (sequence + 1).to_bytes(_SEQUENCE, "big")
                    if event.event_id is not None and not txn.put(
                        _once(event), number, db=self._dbs[b"once"], overwrite=False
                    ):
                        duplicates += 1
                        continue
                    sequence += 1
                    txn.put(number, _encode(stored), db=self._dbs[b"events"], append=True)
                    txn.put(stored.user_id.encode() + b"\0" + number, b"", db=self._dbs[b"by_user"])
                    if stored.item_id is not None and stored.event in POSITIVES:
                        pasts = changed.get(stored.user_id)
                        if pasts is None:
                            found = txn.get(stored.user_id.encode(), db=self._dbs[b"history"])
                            pasts = changed[stored.user_id] = [] if found is None else _pasts(found)
                        _insert(pasts, Past(stored.item_id, stored.timestamp or 0, KINDS.index(stored.event)))
                outcomes.append(Committed(accepted=len(batch) - duplicates, duplicates=duplicates, sequence=sequence))
            for user_id, pasts in changed.items():
                txn.put(user_id.encode(), _encode(pasts[-HISTORY_EVENTS:]), db=self._dbs[b"history"])
            txn.put(b"sequence", str(sequence).encode(), db=self._dbs[b"facts"])
        return outcomes

    def _forget(self, user_id: str) -> int:
        start, erased = user_id.encode() + b"\0", 0
        with self._env.begin(write=True) as txn:
            with txn.cursor(db=self._dbs[b"by_user"]) as cursor:
                ok = cursor.set_range(start)
                while ok and cursor.key().startswith(start):
                    number = cursor.key()[len(start) :]
                    value = txn.get(number, db=self._dbs[b"events"])
                    event = _event(value)
                    if event.event_id is not None:
                        txn.delete(_once(event), db=self._dbs[b"once"])
                    txn.delete(number, db=self._dbs[b"events"])
                    ok = cursor.delete()
                    erased += 1
            txn.delete(user_id.encode(), db=self._dbs[b"history"])
            txn.delete(user_id.encode(), db=self._dbs[b"profile"])
        return erased

    def _last(self, txn: Any) -> int:
        return int(txn.get(b"sequence", default=b"0", db=self._dbs[b"facts"]))

    def _grown(self, write: Any) -> Any:
        """Run a write transaction; where the map is too small, enlarge it and run it again."""
        while True:
            try:
                return write()
            except self._lmdb.MapFullError:
                self._env.set_mapsize(self._env.info()["map_size"] * 2)


def seeded_histories(catalog: Catalog, tie_seed: int | None) -> Iterator[tuple[str, list[Past], dict[str, str]]]:
    """Id, newest events (oldest first) and profile of every user of a catalog; ids that are too long for a key are not
    among them."""
    events, ids = catalog.events, catalog.items.ids
    rows: dict[int, list[Past]] = {}
    for place in events.order("keep", tie_seed).tolist():
        item, when = int(events.item[place]), int(events.time[place]) if events.timed else 0
        rows.setdefault(int(events.user[place]), []).append(Past(ids[item], when, int(events.kind[place])))
    for user, pasts in rows.items():
        user_id = events.user_ids[user]
        if len(user_id.encode()) <= _LONGEST_KEY:
            yield user_id, pasts[-HISTORY_EVENTS:], catalog.profile_of(user)


def _insert(pasts: list[Past], new: Past) -> None:
    """Keep the order of time; an event of the same time comes after those that were there."""
    place = len(pasts)
    while place and pasts[place - 1].time > new.time:
        place -= 1
    pasts.insert(place, new)


def _once(event: Event) -> bytes:
    return hashlib.blake2b(f"{event.user_id}\0{event.event_id}".encode(), digest_size=16).digest()


def _lmdb() -> ModuleType:
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise DependencyError("lmdb", extra="serve", purpose="the service's user state") from error
    return lmdb


def shown(pasts: Sequence[Past], split: Mapping[str, Any]) -> list[Past]:
    """The history as the model was trained to read it: all events, or the first of each item."""
    if split.get("repeats") != "first":
        return list(pasts)
    seen: set[str] = set()
    return [past for past in pasts if past.item_id not in seen and not seen.add(past.item_id)]  # type: ignore[func-returns-value]
