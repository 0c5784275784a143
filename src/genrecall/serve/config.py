"""Settings of the service, and what is sized by itself."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genrecall.errors import ConfigError
from genrecall.experiment.assignment import Layer
from genrecall.serve.scenario import Scenario
from genrecall.serve.shared import Seat
from genrecall.serve.worker.config import WorkerConfig


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How a gateway serves.

    Attributes:
        state: directory of events, histories and profiles.
        redis: URL of a Redis that holds events, histories and profiles instead (see :class:`RedisState`).
        host, port: of the data listener; port 0 takes a free one.
        grpc_port: of the gRPC listener on the same host, likewise; None: there is none.
        keys: file of API keys; None lets everybody in, which only a loopback address may.
        deadline_s: of requests that name none.
        max_inflight: requests at a time, at most; how many really is found out by what is answered quickly. More are
            refused with 503 and Retry-After.
        max_body_bytes: of a request, counted while it is read.
        body_s: a body that takes longer is refused.
        rate_per_s: requests a second of one key (or address, without keys); None: unlimited.
        drain_s: how long a stop waits for requests on their way.
        weights: of channels in the fusion, for bundles that ship none.
        worker: of the generative channel; None serves classic channels only.
        scenarios: by name; requests of others are answered as the bundle says.
        experiments: layers; an arm's settings hold for requests that do not set them.
        explained: answers that ``/v1/explain`` remembers.
        tls: certificate chain and key as PEM files; None speaks plain HTTP.
        insecure: allow an address that others reach without keys.
        gateways: processes that answer; one does all by itself.
        seat: of this one of several; set by the keeper, and then ``max_inflight`` is this one's part.
    """

    state: Path
    redis: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = None
    keys: Path | None = None
    deadline_s: float = 0.25
    max_inflight: int = 256
    max_body_bytes: int = 1 << 20
    body_s: float = 10.0
    rate_per_s: float | None = None
    drain_s: float = 30.0
    weights: Mapping[str, float] = field(default_factory=dict)
    worker: WorkerConfig | None = field(default_factory=WorkerConfig)
    scenarios: Mapping[str, Scenario] = field(default_factory=dict)
    experiments: Sequence[Layer] = ()
    explained: int = 2000
    tls: tuple[Path, Path] | None = None
    insecure: bool = False
    gateways: int = 1
    seat: Seat | None = None

    def __post_init__(self) -> None:
        if self.keys is None and not self.is_loopback and not self.insecure:
            raise ConfigError(
                "this address can be reached by others and no API keys are set",
                seen=f"--host {self.host}",
                allowed="127.0.0.1 without keys, any address with --keys FILE",
                fix="make a key with `genrecall keys add NAME --file keys.txt` and give --keys keys.txt, "
                "or say --insecure where something in front checks who calls",
            )
        for name, value, least in (
            ("deadline_s", self.deadline_s, 0.001), ("max_inflight", self.max_inflight, 1),
            ("gateways", self.gateways, 1), ("max_body_bytes", self.max_body_bytes, 1024), ("drain_s", self.drain_s, 0),
        ):  # fmt: skip
            if not value >= least:  # so that what is no number is refused, too
                raise ConfigError(f"{name} is too small", seen=value, allowed=f"{least} or more", fix=f"raise {name}")
        if not all(0 <= weight < math.inf for weight in self.weights.values()):
            raise ConfigError(
                "a channel cannot weigh so much",
                seen=", ".join(f"{name}={weight}" for name, weight in self.weights.items()),
                allowed="0 or more",
                fix="correct --weight",
            )
        if not (0 <= self.port < 65536 and 0 <= (self.grpc_port or 0) < 65536):
            raise ConfigError(
                "no such port",
                seen=f"{self.port}, {self.grpc_port}",
                allowed="0 to 65535",
                fix="choose another --port or --grpc-port",
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the address."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def worker_threads(device: str, replicas: int = 1) -> int:
    """Threads of each worker's torch: all cores but one, which is the gateway's; one where a GPU computes."""
    return 1 if device.startswith("cuda") else max(1, ((os.cpu_count() or 2) - 1) // replicas)
