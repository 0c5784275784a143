"""`genrecall serve --ray`: replicas on a Ray cluster, one address, users sticky to their replica.

    client ──▶ Ray Serve's proxy ──▶ Front ──home(user)──▶ Replica i ──▶ `genrecall serve` of its own, on loopback

Each replica runs a whole service as its child: gateway, worker, state, admin socket, and what those promise. Ray places
replicas, starts them again and finds them; the front divides. State lies in ``STATE/replica-i`` on a disk that a
restarted replica sees again: pin replicas to machines, or use a volume that follows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrecall.errors import ConfigError, DependencyError
from genrecall.serve.chaos.target import serving
from genrecall.serve.cluster.routing import merged, route
from genrecall.serve.http.gate import _is_local
from genrecall.serve.problems import Problem
from genrecall.telemetry import log

APP = "genrecall"
_COUNT = "replicas.json"
_PATIENCE_S, _AWAY_S = 75, 15
_BODY_BYTES = 64 << 20
_KEPT = ("authorization", "content-type", "idempotency-key", "inference-header-content-length", "x-request-id",
         "accept", "traceparent")  # fmt: skip
_TOLD = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})
Reply = tuple[int, list[tuple[str, str]], bytes]


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """What is started.

    Attributes:
        bundle: directory, the same path on every machine.
        state: directory; replica i owns ``replica-i`` in it.
        replicas: how many divide the users among them. Histories do not move, so a state keeps its number.
        host, port: of the one address.
        options: of `genrecall serve`, for every replica (``--deadline-ms 200``).
        cpus, gpus: of a replica, for Ray's placement.
        inflight: requests that a replica is handed at once.
        local_only: only this machine may call, and only by its own name: there are no keys.
    """

    bundle: Path
    state: Path
    replicas: int = 2
    host: str = "127.0.0.1"
    port: int = 8080
    options: Sequence[str] = ()
    cpus: float = 1.0
    gpus: float = 0.0
    inflight: int = 256
    local_only: bool = True

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ConfigError("nobody would answer", seen=self.replicas, allowed="1 or more", fix="raise --partitions")


class Service:
    """One service as a child process, asked over loopback."""

    def __init__(self, bundle: str, state: str, options: Sequence[str]) -> None:
        self._stack = contextlib.ExitStack()
        self._target = self._stack.enter_context(serving(Path(bundle), Path(state), *options, guarded=True))
        self._local = threading.local()

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """One request on this thread's connection; a connection that went stale is opened again, once."""
        for last in (False, True):
            connection = getattr(self._local, "connection", None)
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._target.port, timeout=_PATIENCE_S)
                self._local.connection = connection
            try:
                connection.request(method, path, body or None, dict(headers))
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            except (http.client.HTTPException, ConnectionError):
                connection.close()
                self._local.connection = None
                if last:
                    raise
        raise AssertionError

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._target.process.poll() is None

    def close(self) -> None:
        """Drain and stop it."""
        self._stack.close()


class Replica:
    """A service, started with the replica and stopped with it."""

    def __init__(self, bundle: str, state: str, options: Sequence[str]) -> None:
        self._service = Service(bundle, state, options)

    async def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """One request of the front's."""
        return await asyncio.to_thread(self._service.ask, method, path, headers, body)

    def check_health(self) -> None:
        """Asked by Ray; a replica that is unwell is replaced."""
        if not self._service.alive:
            raise RuntimeError("the service ended")

    def __del__(self) -> None:
        self._service.close()


class Front:
    """Reads whose request it is, and hands it to that replica."""

    def __init__(self, local_only: bool, *replicas: Any) -> None:
        self._local_only, self._replicas = local_only, replicas

    async def __call__(self, request: Any) -> Any:
        """Starlette in, Starlette out."""
        from starlette.responses import Response

        status, headers, body = await self._answered(request)
        told = Response(body, status_code=status)
        for name, value in headers:
            if name.lower() not in _TOLD:
                told.headers[name] = value
        return told

    async def _answered(self, request: Any) -> Reply:
        """What a replica says, or the front's own refusal."""
        try:
            return await self._answer(request)
        except Problem as problem:
            headers = [(name.decode(), value.decode()) for name, value in problem.headers()]
            return problem.status, headers, problem.document("front", request.url.path)

    async def _answer(self, request: Any) -> Reply:
        if self._local_only and not _is_local(request.headers.get("host", "").encode("latin-1")):
            # The replicas are asked by their own name, so a foreign page must be stopped here.
            raise Problem("forbidden_host", "call it by 127.0.0.1 or localhost, or set API keys")
        path, method = request.url.path, request.method
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _BODY_BYTES:
                raise Problem("body_too_large", f"at most {_BODY_BYTES} bytes")
        headers = {name: request.headers[name] for name in _KEPT if name in request.headers}
        target = path + (f"?{request.url.query}" if request.url.query else "")
        where = route(method, path, bytes(body), len(self._replicas), key=headers.get("idempotency-key"))
        if where.kind == "events" and where.bodies is not None:
            headers.pop("idempotency-key", None)  # every event carries its own
            asked = [self._ask(home, method, target, headers, part) for home, part in where.bodies.items()]
            return _events(await asyncio.gather(*asked))
        if where.kind == "one":
            return await self._ask(where.home, method, target, headers, bytes(body))
        every = range(len(self._replicas))
        told = await asyncio.gather(*(self._ask(home, method, target, headers, bytes(body)) for home in every))
        if where.kind == "first":
            return next((reply for reply in told if reply[0] != 404), told[0])
        return max(told, key=lambda reply: reply[0])

    async def _ask(self, home: int, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
        """A replica that is being started again is waited for a little, then said to be away."""
        asked = self._replicas[home].ask.remote(method, target, headers, body)
        try:
            found: Reply = await asyncio.wait_for(asked, _AWAY_S)
        except _of_ray(TimeoutError, ConnectionError, http.client.HTTPException) as error:
            log(f"replica {home} is away: {type(error).__name__}")
            raise Problem("not_ready", "the service that keeps this user is away", retry_after_s=2) from None
        return found


def _events(told: Sequence[Reply]) -> Reply:
    """All stored, or the first refusal; what other replicas stored stays, and is not counted again when repeated."""
    refused = [reply for reply in told if reply[0] >= 400]
    if refused:
        return refused[0]
    return 200, [("content-type", "application/json")], json.dumps(merged([json.loads(r[2]) for r in told])).encode()


def start(config: ClusterConfig) -> Any:
    """Start (or join) a Ray cluster and deploy everything on it; Ray Serve, for its status and its end.

    Raises:
        DependencyError: Ray is not installed.
        ConfigError: the state was divided among another number of replicas.
    """
    ray, ray_serve = _ray()
    require_count(config.state, config.replicas)
    join(ray, log_to_driver=True)
    try:
        ray_serve.start(http_options={"host": config.host, "port": config.port, "request_timeout_s": _PATIENCE_S})
    except _of_ray(RuntimeError) as error:
        raise _not_started(error) from error
    bundle, state = (str(path.resolve()) for path in (config.bundle, config.state))
    replicas = [
        ray_serve.deployment(
            name=f"replica-{number}", num_replicas=1, max_ongoing_requests=config.inflight,
            ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus}, graceful_shutdown_timeout_s=45,
        )(Replica).bind(bundle, f"{state}/replica-{number}", config.options)
        for number in range(config.replicas)
    ]  # fmt: skip
    front = ray_serve.deployment(
        name="front", num_replicas=1, max_ongoing_requests=config.inflight * config.replicas,
        ray_actor_options={"num_cpus": 0},
    )(Front)  # fmt: skip
    try:
        ray_serve.run(front.bind(config.local_only, *replicas), name=APP, route_prefix="/")
    except _of_ray(RuntimeError) as error:
        raise _not_started(error) from error
    return ray_serve


def join(ray: Any, *, log_to_driver: bool) -> bool:
    """Join the cluster that ``RAY_ADDRESS`` names, or start one on this machine; whether that was needed.

    Raises:
        ConfigError: neither is possible.
    """
    if ray.is_initialized():
        return False
    try:
        ray.init(logging_level="warning", log_to_driver=log_to_driver)
    except Exception as error:  # Ray raises plain ones, too
        raise _not_started(error) from error
    return True


def _not_started(error: Exception) -> ConfigError:
    return ConfigError(
        "Ray cannot be joined, started or deployed on",
        seen=f"{type(error).__name__}: {str(error)[:500]}",
        allowed="a cluster at RAY_ADDRESS, or a machine with room for one and a free --port",
        fix="start it with `ray start --head` and read what it says; on a busy machine give it more time with "
        "RAY_raylet_start_wait_time_s=180",
    )


def require_count(state: Path, replicas: int) -> None:
    """Refuse another number of replicas than the histories were divided by; remember it else."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = state / _COUNT
    if file.is_file():
        known = int(json.loads(file.read_text(encoding="utf-8"))["replicas"])
        if known != replicas:
            raise ConfigError(
                "the users of this state are divided among another number of replicas",
                seen=f"--partitions {replicas}", allowed=f"{known}",
                fix="keep the number, or give another --state, which begins from the catalog's histories",
            )  # fmt: skip
    file.write_text(json.dumps({"replicas": replicas}) + "\n", encoding="utf-8")


def _of_ray(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What Ray raises where something of it is gone, and ``more``."""
    if "ray" not in sys.modules:
        return more
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    return RayError, RayServeException, *more


def _ray() -> tuple[Any, Any]:
    try:
        import ray
        from ray import serve as ray_serve
    except ModuleNotFoundError as error:
        raise DependencyError("ray[serve]", extra="ray", purpose="a service on a Ray cluster") from error
    return ray, ray_serve
