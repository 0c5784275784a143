"""User state in Redis, for several gateways over one store; the promises are those of the LMDB store.

    events         stream               sequence-0  →  the event as JSON
    sequence       string               the newest sequence number
    by:USER        list                 sequence numbers, for erasure
    once:USER      set                  event ids: an event is counted once
    history:USER   sorted set           score: time; member: order, kind and item
    profile:USER   hash                 columns by name
    users          sorted set           of equal scores, so that it is in byte order
    delisted, seeded                    sets

All keys begin with one hash tag, so that they lie on one node of a cluster. A commit is one Lua script: other clients
see all of it or nothing. Redis answers before it has written unless its append-only file is flushed always; a server
that does not is refused, unless the URL says ``?acknowledge=memory``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlencode

import msgspec

from genrecall.catalog.events import KINDS
from genrecall.errors import ConfigError, DependencyError
from genrecall.serve.schema import Event
from genrecall.serve.state.state import StateUnavailableError
from genrecall.serve.state.store import HISTORY_EVENTS, POSITIVES, Committed, Past, seeded_histories
from genrecall.telemetry import log

if TYPE_CHECKING:
    from genrecall.catalog.store import Catalog

_TIMEOUT_S = 2.0
_SEEDED_AT_ONCE, _READ_AT_ONCE = 500, 1000
_DIGITS = 16
_OPTIONS = ("prefix", "acknowledge")
_encode = msgspec.msgpack.Encoder().encode
_written = msgspec.json.Encoder().encode
_event = msgspec.json.Decoder(Event).decode
T = TypeVar("T")

_COMMIT = """
local p, cap, events = KEYS[1], tonumber(ARGV[1]), cmsgpack.unpack(ARGV[2])
local sequence, new = tonumber(redis.call('GET', p .. 'sequence') or '0'), {}
for place, event in ipairs(events) do
  local user, once, packed, when, member = event[1], event[2], event[3], event[4], event[5]
  new[place] = 1
  if once ~= '' then new[place] = redis.call('SADD', p .. 'once:' .. user, once) end
  if new[place] == 1 then
    sequence = sequence + 1
    redis.call('XADD', p .. 'events', string.format('%d-0', sequence), 'e', packed)
    redis.call('RPUSH', p .. 'by:' .. user, string.format('%d', sequence))
    if member ~= '' then
      redis.call('ZADD', p .. 'history:' .. user, when, '1' .. string.format('%016d', sequence) .. member)
      redis.call('ZREMRANGEBYRANK', p .. 'history:' .. user, 0, -cap - 1)
      redis.call('ZADD', p .. 'users', 0, user)
    end
  end
end
redis.call('SET', p .. 'sequence', string.format('%d', sequence))
return {sequence, new}
"""
_SEED = """
local p = KEYS[1]
for _, told in ipairs(cmsgpack.unpack(ARGV[1])) do
  local user, history, profile = told[1], told[2], told[3]
  if redis.call('EXISTS', p .. 'history:' .. user) == 0 then
    for place = 1, #history, 2 do redis.call('ZADD', p .. 'history:' .. user, history[place], history[place + 1]) end
    redis.call('ZADD', p .. 'users', 0, user)
  end
  if redis.call('EXISTS', p .. 'profile:' .. user) == 0 then
    for place = 1, #profile, 2 do redis.call('HSET', p .. 'profile:' .. user, profile[place], profile[place + 1]) end
  end
end
"""
_FORGET = """
local p, user = KEYS[1], ARGV[1]
local erased = redis.call('LRANGE', p .. 'by:' .. user, 0, -1)
for _, sequence in ipairs(erased) do redis.call('XDEL', p .. 'events', sequence .. '-0') end
for _, kind in ipairs({'by:', 'once:', 'history:', 'profile:'}) do redis.call('DEL', p .. kind .. user) end
redis.call('ZREM', p .. 'users', user)
return #erased
"""


def _reached(call: Callable[..., T]) -> Callable[..., T]:
    """What goes wrong on the way to Redis becomes :class:`StateUnavailableError`; the log says what it was."""

    @wraps(call)
    def called(self: RedisState, *args: Any, **more: Any) -> T:
        try:
            return call(self, *args, **more)
        except self.errors as error:
            log(f"redis: {type(error).__name__}: {error}")
            raise StateUnavailableError from error

    return called


class RedisState:
    """The store behind any number of gateways.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it; ``?prefix=NAME`` keeps several services
            apart, ``?acknowledge=memory`` accepts a server that loses its last second.

    Raises:
        ConfigError: nobody answers there, or the server does not keep what it acknowledges.
    """

    remote = True

    def __init__(self, url: str) -> None:
        library = _redis()
        self.errors = library.exceptions.RedisError
        plain, options = _split(url)
        self._prefix = f"{{{options.get('prefix', 'genrecall')}}}:"
        try:
            self._redis = library.Redis.from_url(
                plain, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, health_check_interval=30
            )
            kept = _keeps(self._redis, library)
        except (self.errors, ValueError) as error:
            raise ConfigError(
                "the state cannot be reached",
                seen=f"{type(error).__name__}: {error}",
                allowed="a Redis server of version 5 or newer that answers",
                fix="start it, or correct --redis",
            ) from error
        if not kept and options.get("acknowledge") != "memory":
            raise ConfigError(
                "this Redis acknowledges what it may lose",
                seen="appendonly or appendfsync is not set, or may not be read",
                allowed="appendonly yes and appendfsync always",
                fix="set both, or add ?acknowledge=memory to the URL and accept the loss of acknowledged events",
            )
        self._commit, self._seed, self._forget = (
            self._redis.register_script(script) for script in (_COMMIT, _SEED, _FORGET)
        )

    def close(self) -> None:
        """See :class:`State`."""
        self._redis.close()

    @_reached
    def commit(self, batches: Sequence[Sequence[Event]]) -> list[Committed]:
        """See :class:`State`."""
        now, told = int(time.time()), []
        for event in (event for batch in batches for event in batch):
            stored = event if event.timestamp is not None else msgspec.structs.replace(event, timestamp=now)
            counts = stored.item_id is not None and stored.event in POSITIVES
            member = _member(stored.event, stored.item_id or "") if counts else ""
            told.append((stored.user_id, stored.event_id or "", _written(stored).decode(), stored.timestamp, member))
        sequence, new = self._commit(keys=[self._prefix], args=[HISTORY_EVENTS, _encode(told)])
        outcomes, place, reached = [], 0, sequence - sum(new)
        for batch in batches:
            accepted = sum(new[place : place + len(batch)])
            place, reached = place + len(batch), reached + accepted
            outcomes.append(Committed(accepted=accepted, duplicates=len(batch) - accepted, sequence=reached))
        return outcomes

    @_reached
    def known(self, user_id: str) -> tuple[list[Past], dict[str, str]]:
        """See :class:`State`; one round trip."""
        with self._redis.pipeline(transaction=False) as both:
            both.zrange(f"{self._prefix}history:{user_id}", 0, -1, withscores=True)
            both.hgetall(f"{self._prefix}profile:{user_id}")
            found, profile = both.execute()
        return [_past(member, when) for member, when in found], _texts(profile)

    def history(self, user_id: str) -> list[Past]:
        """See :class:`State`."""
        return self.known(user_id)[0]

    def profile(self, user_id: str) -> dict[str, str]:
        """See :class:`State`."""
        return self.known(user_id)[1]

    @_reached
    def users(self, prefix: str = "", limit: int = 20) -> list[str]:
        """See :class:`State`."""
        low = b"[" + prefix.encode() if prefix else b"-"
        high = b"[" + prefix.encode() + b"\xff" if prefix else b"+"
        found = self._redis.zrangebylex(f"{self._prefix}users", low, high, start=0, num=limit)
        return [user.decode() for user in found]

    @_reached
    def counts(self) -> dict[str, int]:
        """See :class:`State`."""
        with self._redis.pipeline(transaction=False) as three:
            three.xlen(f"{self._prefix}events")
            three.zcard(f"{self._prefix}users")
            three.get(f"{self._prefix}sequence")
            events, users, sequence = three.execute()
        return {"events": events, "users": users, "sequence": int(sequence or 0)}

    def log(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """See :class:`State`."""
        while found := self._some(after):
            yield from found
            after = found[-1][0]

    @_reached
    def _some(self, after: int) -> list[tuple[int, Event]]:
        found = self._redis.xrange(f"{self._prefix}events", min=f"{after + 1}-0", count=_READ_AT_ONCE)
        return [(int(name.partition(b"-")[0]), _event(told[b"e"])) for name, told in found]

    @_reached
    def forget(self, user_id: str) -> int:
        """See :class:`State`."""
        return int(self._forget(keys=[self._prefix], args=[user_id]))

    @_reached
    def delist(self, item_ids: Iterable[str], *, delisted: bool = True) -> None:
        """See :class:`State`."""
        named = list(item_ids)
        if named:
            (self._redis.sadd if delisted else self._redis.srem)(f"{self._prefix}delisted", *named)

    @_reached
    def delisted(self) -> set[str]:
        """See :class:`State`."""
        return {item.decode() for item in self._redis.smembers(f"{self._prefix}delisted")}

    @_reached
    def seed(self, catalog: Catalog, tie_seed: int | None) -> int:
        """See :class:`State`; in pieces, so that other clients are served meanwhile. It may be begun again."""
        if self._redis.sismember(f"{self._prefix}seeded", catalog.digest):
            return 0
        taken, piece = 0, []
        for user_id, pasts, profile in seeded_histories(catalog, tie_seed):
            history: list[Any] = []
            for place, past in enumerate(pasts):
                history += [past.time, f"0{place:0{_DIGITS}d}{_member(KINDS[past.kind], past.item_id)}"]
            piece.append((user_id, history, [text for pair in profile.items() for text in pair]))
            taken += 1
            if len(piece) == _SEEDED_AT_ONCE:
                self._seed(keys=[self._prefix], args=[_encode(piece)])
                piece = []
        if piece:
            self._seed(keys=[self._prefix], args=[_encode(piece)])
        self._redis.sadd(f"{self._prefix}seeded", catalog.digest)
        return taken


def _member(kind: str, item_id: str) -> str:
    return f"{KINDS.index(kind)}{item_id}"


def _past(member: bytes, when: float) -> Past:
    told = member[1 + _DIGITS :].decode()
    return Past(told[1:], int(when), int(told[0]))


def _texts(told: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in told.items()}


def _keeps(client: Any, library: Any) -> bool:
    """Whether what it acknowledges is on disk."""
    client.ping()
    try:
        told = {**client.config_get("appendonly"), **client.config_get("appendfsync")}
    except library.exceptions.ResponseError:  # a managed server that does not tell
        return False
    plain = {str(name): str(value) for name, value in told.items()}
    return plain.get("appendonly") == "yes" and plain.get("appendfsync") == "always"


def _split(url: str) -> tuple[str, dict[str, str]]:
    """The URL as redis-py takes it, and our own options."""
    plain, _, query = url.partition("?")
    told = dict(parse_qsl(query))
    own = {name: told.pop(name) for name in _OPTIONS if name in told}
    return f"{plain}?{urlencode(told)}" if told else plain, own


def _redis() -> Any:
    try:
        import redis
    except ModuleNotFoundError as error:
        raise DependencyError("redis", extra="redis", purpose="user state in Redis") from error
    return redis
