"""What the service needs of a store of users, events and delisted items: LMDB and Redis keep the same promises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from genrecall.serve.problems import Problem
from genrecall.serve.schema import Event
from genrecall.serve.state.store import Committed, Past, UserState

if TYPE_CHECKING:
    from genrecall.catalog.store import Catalog
    from genrecall.serve.config import ServeConfig


class StateUnavailableError(Problem):
    """The store does not answer; to a client it is ``storage_failed``, a recommendation goes on without it."""

    def __init__(self) -> None:
        super().__init__("storage_failed", "what is known of users cannot be reached", retry_after_s=1)


class State(Protocol):
    """A store. Every method may raise :class:`StateUnavailableError`."""

    @property
    def remote(self) -> bool:
        """Whether reading waits for a network: then no event loop may do it."""
        ...

    def known(self, user_id: str) -> tuple[list[Past], dict[str, str]]:
        """History, oldest first, and profile of a user; empty for an unknown one."""
        ...

    def history(self, user_id: str) -> list[Past]:
        """Events of a user that count as history, oldest first; empty for an unknown one."""
        ...

    def profile(self, user_id: str) -> dict[str, str]:
        """Profile columns of a user; empty for an unknown one."""
        ...

    def commit(self, batches: Sequence[Sequence[Event]]) -> list[Committed]:
        """Store several batches at once, all of them or none; durable when it returns."""
        ...

    def users(self, prefix: str = "", limit: int = 20) -> list[str]:
        """Ids of users with a history that begin with ``prefix``, in byte order."""
        ...

    def counts(self) -> dict[str, int]:
        """How many events and users are stored, and the newest sequence number."""
        ...

    def log(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """The event log, oldest first."""
        ...

    def forget(self, user_id: str) -> int:
        """Erase all that is known of a user; how many events that were."""
        ...

    def delist(self, item_ids: Iterable[str], *, delisted: bool = True) -> None:
        """Take items out of all answers, or back in; durable when it returns."""
        ...

    def delisted(self) -> set[str]:
        """Items that must not be answered."""
        ...

    def seed(self, catalog: Catalog, tie_seed: int | None) -> int:
        """Take in a catalog's histories and profiles, once; known users keep theirs. How many were taken in."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def open_state(config: ServeConfig) -> State:
    """The store that the settings name."""
    if config.redis is None:
        return UserState(config.state, shared=config.seat is not None)
    from genrecall.serve.state.redis import RedisState

    return RedisState(config.redis)
