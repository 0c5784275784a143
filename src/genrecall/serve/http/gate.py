"""The gate: what every request passes, as one pure ASGI middleware.

Request id, host, key, rate, room; headers, metrics and problem documents on the way out. Nothing is open by default:
every route but liveness and readiness needs a key where keys are set, also those that do not exist.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrecall.serve.config import ServeConfig
from genrecall.serve.http.body import ClientGoneError
from genrecall.serve.http.keys import Keys
from genrecall.serve.http.rate import Rate
from genrecall.serve.http.repeats import Repeats
from genrecall.serve.limiter import Limiter
from genrecall.serve.metrics import Metrics
from genrecall.serve.problems import Problem
from genrecall.serve.tracing import Request as Traced
from genrecall.serve.tracing import Tracing
from genrecall.telemetry import log

OPEN = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
_UNLIMITED = OPEN | {"/metrics", "/health"}
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_ROUTING = {404: "not_found", 405: "method_not_allowed"}
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
CSP = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are written."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_STAMP = lines([*_HEADERS, (b"content-security-policy", CSP)])


class Refusal(NamedTuple):
    """An answer of the gate's own: why, status, lines of headers, body."""

    code: str
    status: int
    head: bytes
    body: bytes


class Gate:
    """Wraps the application.

    Args:
        app: behind the gate.
        config: limits and address.
        metrics: of the service.
        routes: what is behind the gate; requests are counted by their paths, never by what a client made up.
        limiter: how many requests may be on their way.
        tracing: None makes no spans.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServeConfig,
        metrics: Metrics,
        routes: Sequence[BaseRoute],
        limiter: Limiter,
        tracing: Tracing | None = None,
    ) -> None:
        self.limiter, self.tracing, self.repeats = limiter, tracing, Repeats(self)
        self._app, self._config, self._metrics = app, config, metrics
        self._paths = {route.endpoint: route.path for route in routes if isinstance(route, Route)}
        self._keys, self._rate = Keys(config.keys), _rate(config)
        self.inflight, self.draining = 0, False
        self._local_only = config.is_loopback and not self._keys.required

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self.tracing is None or scope["path"] in _UNLIMITED:
            await self._handle(scope, receive, send, None)
        else:
            sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            with self.tracing.request(scope["method"], sent) as span:
                await self._handle(scope, receive, send, span)

    def refusal(self, scope: Scope) -> Refusal | None:
        """What is answered to a request that is not let in; None lets it in, and what follows must call this object.

        Only for servers that ask before they begin with a request; of others every call of this object asks itself.
        Traced requests are not refused here: a span is as long as its task.
        """
        if self.tracing is not None and scope["path"] not in _UNLIMITED:
            return None
        begun = time.perf_counter()
        try:
            self._enter(scope, begun)
        except Problem as problem:
            self._metrics.request_of("none", str(problem.status)).observe(time.perf_counter() - begun)
            headers, body = _worded(problem, scope)
            head = lines([*headers, (b"x-request-id", scope["state"]["request_id"].encode())])
            return Refusal(problem.code, problem.status, _STAMP + head, body)
        return None

    @property
    def is_full(self) -> bool:
        """Whether there is no room; then what comes is to be refused."""
        return self.limiter.is_full(self.inflight)

    def refuses_again(self, authorization: str, begun: float) -> bool:
        """Count a request that is refused for want of room, as was one like it; False: there may be other reasons."""
        if self.draining or self._rate.is_limited or (self._keys.required and self._keys.holder(authorization) is None):
            return False
        self._metrics.shed_of("inflight").inc()
        self._metrics.request_of("none", "503").observe(time.perf_counter() - begun)
        return True

    async def _handle(self, scope: Scope, receive: Receive, send: Send, span: Traced | None) -> None:
        status = 0

        async def out(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                stamped = _stamped(message.get("headers", []), scope["state"]["request_id"])
                if span is not None:
                    stamped.append((b"traceparent", span.traceparent.encode()))
                message = {**message, "headers": stamped}
            await send(message)

        try:
            if "let_in" not in scope.setdefault("state", {}):
                self._enter(scope, time.perf_counter())
            try:
                await self._app(scope, receive, out)
            finally:
                self.inflight -= scope["state"]["let_in"]
        except Problem as problem:
            await _tell(problem, scope, out)
        except HTTPException as error:
            allow = (error.headers or {}).get("Allow")
            await _tell(Problem(_ROUTING.get(error.status_code, "malformed"), allow=allow), scope, out)
        except ClientGoneError:
            self._metrics.cancelled.inc()
            status = status or 499
        except Exception as error:  # the client gets an id and no more; the log gets the error
            log(f"request {scope['state']['request_id']} failed: {type(error).__name__}: {error}")
            if status == 0:
                await _tell(Problem("internal", "the service's log has more under this request id"), scope, out)
            raise
        finally:
            path = self._paths.get(scope["endpoint"], "none") if "endpoint" in scope else "none"
            self._metrics.request_of(path, str(status)).observe(time.perf_counter() - scope["state"]["begun"])
            if span is not None:
                span.route, span.status = path, status

    def _enter(self, scope: Scope, begun: float) -> None:
        """Give a request its id, and let it in; from then on it takes room."""
        headers, state = dict(reversed(scope["headers"])), scope["state"]
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        state["begun"], state["request_id"] = begun, given if _ID.fullmatch(given) else secrets.token_hex(8)
        if self._local_only and not _is_local(headers.get(b"host", b"")):
            # Without keys only this machine may call; a foreign page must not do it through a name of its own.
            raise Problem("forbidden_host", "call it by 127.0.0.1 or localhost, or set API keys")
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        client = scope["client"][0] if scope.get("client") else "all"
        counted = scope["path"] not in _UNLIMITED
        state["caller"] = self.let_in(scope["path"], authorization, client, counted=counted)
        state["let_in"] = counted
        self.inflight += counted

    def let_in(self, path: str, authorization: str, client: str, *, counted: bool = True) -> str:
        """Who calls, if there is room: for requests of any protocol.

        Args:
            path: what is asked for.
            authorization: the header of this name.
            client: address of the caller.
            counted: whether it takes room.

        Raises:
            Problem: no key, or no room.
        """
        caller = client
        if self._keys.required and path not in OPEN:
            holder = self._keys.holder(authorization)
            if holder is None:
                raise Problem("unauthenticated", "send authorization: Bearer KEY")
            caller = holder
        if not counted:
            return caller
        if self.draining:
            raise Problem("draining", "this process is about to stop", retry_after_s=1)
        if wait := self._rate.wait_s(caller):
            self._metrics.shed_of("rate").inc()
            raise Problem("rate_limited", "too many requests of this caller", retry_after_s=math.ceil(wait))
        if self.is_full:
            self._metrics.shed_of("inflight").inc()
            raise Problem("overloaded", "too many requests at a time", retry_after_s=1)
        return caller


def _rate(config: ServeConfig) -> Rate:
    return Rate(config.rate_per_s, None if config.seat is None else config.seat.directory / "rate")


def _stamped(headers: Any, request_id: str) -> list[tuple[bytes, bytes]]:
    names = {name.lower() for name, _ in headers}
    added = [(name, value) for name, value in _HEADERS if name not in names]
    if b"content-security-policy" not in names:
        added.append((b"content-security-policy", CSP))
    return [*headers, *added, (b"x-request-id", request_id.encode())]


def _is_local(host: bytes) -> bool:
    name = host.decode("latin-1").rpartition(":")[0] if host.count(b":") == 1 else host.decode("latin-1")
    return name in ("127.0.0.1", "localhost") or name.startswith("[::1]")


async def _tell(problem: Problem, scope: Scope, send: Callable[[Message], Awaitable[None]]) -> None:
    headers, body = _worded(problem, scope)
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _worded(problem: Problem, scope: Scope) -> tuple[list[tuple[bytes, bytes]], bytes]:
    body = problem.document(scope["state"]["request_id"], scope["path"])
    return [*problem.headers(), (b"content-length", str(len(body)).encode())], body
