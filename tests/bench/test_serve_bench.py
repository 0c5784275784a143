"""Load on a service whose capacity is known: a queue of one server that degrades what would wait too long."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from typer.testing import CliRunner

from genrecall.bench.serve.asking import Asking, ServeBench
from genrecall.bench.serve.figures import good
from genrecall.bench.serve.measure import measure
from genrecall.bench.serve.search import Tried, highest, settled
from genrecall.bench.serve.warm import warmed
from genrecall.cli.main import app
from genrecall.errors import ConfigError
from genrecall.serve.chaos.load import Outcomes

WAITS_S, CHEAP_S = 0.1, 0.1


@dataclass(kw_only=True)
class Shop:
    """One engine that takes ``each_s`` a search, ``compile_s`` more for the first, and is left out where it is busy.

    A search that is given up on before the engine comes to it opens the breaker: short deadlines get no more then. With
    a ``fuse`` the engine is off for good once it was too busy.
    """

    each_s: float = 0.005
    compile_s: float = 0.0
    off: bool = False
    fuse: bool = False
    free_at: float = 0.0
    broken: bool = False
    asked_ms: list[int] = field(default_factory=list)

    async def whole(self, deadline_s: float) -> bool:
        """Search; whether that came by the deadline."""
        now = time.monotonic()
        self.free_at = max(self.free_at, now) + self.each_s + self.compile_s
        self.compile_s = 0.0
        wait_s = self.free_at - now
        if wait_s > deadline_s:
            self.broken = True
            await asyncio.sleep(deadline_s)
        else:
            self.broken = self.broken and deadline_s < 5
            await asyncio.sleep(wait_s)
        return wait_s <= deadline_s

    async def recommend(self, body: bytes) -> bytes:
        """An answer, whole where there is time for that."""
        deadline_s = json.loads(body)["deadline_ms"] / 1e3
        self.asked_ms.append(int(deadline_s * 1e3))
        busy = self.free_at - time.monotonic() > min(WAITS_S, deadline_s) and deadline_s < 5
        self.off = self.off or (self.fuse and busy)
        whole = not self.off and not busy and not (self.broken and deadline_s < 5) and await self.whole(deadline_s)
        if not whole:
            await asyncio.sleep(CHEAP_S)
        why = [] if whole else ["shed: generative"]
        told = {"coverage": {"degraded": not whole, "beam": 8 * whole, "reasons": why}, "timing_ms": {"channels": 1.0}}
        return json.dumps(told).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                body = await reader.readexactly(length)
                answer = await self.recommend(body) if length else json.dumps({"users": ["u1", "u2"]}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
        writer.close()


@contextlib.contextmanager
def running(shop: Shop) -> Iterator[str]:
    """The shop's URL, while it is open."""
    loop, ports = asyncio.new_event_loop(), list[int]()

    async def main(up: Callable[[], None]) -> None:
        server = await asyncio.start_server(shop.serve, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        up()
        await stop.wait()

    stop, is_up = asyncio.Event(), threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(main(is_up.set)), daemon=True)
    thread.start()
    assert is_up.wait(10)
    yield f"http://127.0.0.1:{ports[0]}"
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


def tried(rate: float, lacking: float = 0.0, p99: float = 10.0, late: float = 1.0, calm: bool = True) -> Tried:
    figures = {
        "rate_per_s": rate, "lacking_share": lacking, "answered_ms": {"p99": p99}, "generator_late_ms": {"p99": late},
        "calm": calm,
    }  # fmt: skip
    return Tried(deadline_ms=100, figures=figures)


def sought(lacking: Callable[[float, int], float], *, start: float, probes: int = 12) -> tuple[float, list[float]]:
    """What is found, and the rates that were tried, where a rate's share of lacking answers is known."""

    async def probe(rate: float, number: int) -> Tried:
        return tried(rate, lacking(rate, number))

    best, phases = asyncio.run(highest(probe, start=start, floor=1.0, probes=probes))
    return 0.0 if best is None else best.rate, [phase.rate for phase in phases]


@pytest.mark.parametrize("start", [1, 20, 99, 100, 101, 1000])
def test_the_search_comes_within_a_tenth_from_below(start: float) -> None:
    found, rates = sought(lambda rate, _: 0.0 if rate <= 100 else 0.5, start=start)
    assert 100 / 1.1 <= found <= 100
    assert len(rates) <= 12


def test_one_stall_does_not_decide() -> None:
    found, rates = sought(lambda rate, number: 0.5 if rate > 100 else 0.02 * (number == 0), start=90)
    assert rates[:2] == [90, 90]
    assert 100 / 1.1 <= found <= 100
    assert sought(lambda rate, _: 0.02 * (rate > 100), start=90)[0] <= 100  # but what fails narrowly twice fails


def test_nothing_whole_is_nought_and_probes_are_counted() -> None:
    assert sought(lambda *_: 1.0, start=5) == (0.0, [5, 2.5, 1.25, 1.0])
    assert sought(lambda rate, _: 0.0, start=1, probes=4) == (8.0, [1, 2, 4, 8])


def test_a_rate_holds_by_shares_by_time_and_only_if_it_was_asked() -> None:
    assert tried(5, lacking=0.01).holds
    assert not tried(5, lacking=0.011).holds
    assert not tried(5, p99=101).holds
    assert not tried(5, late=101).holds


def test_a_search_that_was_cut_off_says_so() -> None:
    holding, failing, late = tried(64), tried(70, lacking=0.5), tried(128, late=101)
    assert settled(holding, [holding, failing])
    assert settled(None, [failing])
    assert not settled(holding, [holding]), "no phases left"
    assert not settled(holding, [tried(128, lacking=0.5), holding]), "nor halfway"
    assert not settled(holding, [holding, late]), "this generator's fault"
    assert not settled(holding, [holding, tried(70, lacking=0.5, calm=False)]), "the fault of the phase before"


def test_a_late_generator_ends_the_search() -> None:
    async def probe(rate: float, _: int) -> Tried:
        return tried(rate, late=101 if rate > 30 else 1)

    best, phases = asyncio.run(highest(probe, start=10, floor=1.0, probes=9))
    assert best is not None
    assert (best.rate, [phase.rate for phase in phases]) == (20, [10, 20, 40])


def test_rates_count_the_time_in_which_requests_were_really_sent() -> None:
    late = Outcomes(due=[0.0, 1.0], late_s=[0.0, 2.0], latency_s=[0.1, 1.0], status=[200, 200], reasons=[()] * 2)
    assert late.span_s == 4.0
    assert good(late, 2000) == 0.5
    assert Outcomes().span_s == 1.0


@pytest.mark.slow
def test_what_is_answered_whole_is_below_what_the_engine_can_do() -> None:
    with running(Shop()) as url:
        found = measure(ServeBench(url=url, seconds=1.0, deadline_ms=400, overload=1.0, warm_s=10))
    assert found["warm_up"]["whole"]
    assert 30 <= found["whole_per_s"] <= 260  # of 200/s: a busy machine, or a queue that half a second does not fill
    assert found["whole"]["lacking_share"] <= 0.01
    assert found["whole"]["answered_ms"]["p99"] <= 400
    assert found["whole"]["rate_per_s"] == pytest.approx(found["whole_per_s"], abs=0.1)
    assert found["light"]["rate_per_s"] == pytest.approx(found["whole_per_s"] / 2, abs=0.1)
    assert found["peak_per_s"] > found["whole_per_s"]
    assert {one["holds"] for one in found["search"]} == {True, False}


@pytest.mark.slow
def test_a_service_without_its_engine_answers_nothing_whole() -> None:
    with running(Shop(off=True)) as url:
        found = measure(ServeBench(url=url, seconds=1.0, deadline_ms=400, overload=1.0, warm_s=0.5))
    assert (found["whole_per_s"], found["whole"], found["search"]) == (0.0, None, [])
    assert found["light"]["rate_per_s"] == 1.0
    assert found["light"]["degraded_share"] == 1.0


def test_compiling_opens_no_breaker() -> None:
    shop = Shop(compile_s=0.8)
    with running(shop) as url:
        bench = ServeBench(url=url, deadline_ms=400)

        async def scenario() -> None:
            asking = Asking(bench)
            found = await warmed(asking, 0.4, 20)
            assert found.whole
            assert 0.8 < found.seconds < 20
            assert found.alone_ms < 400
            assert not shop.broken
            asking.close()

        asyncio.run(scenario())
    assert shop.asked_ms[0] > 5_000
    assert shop.asked_ms[-1] == 400


@pytest.mark.slow
def test_stated_rates_are_measured_one_by_one() -> None:
    with running(Shop()) as url:
        arguments = ["bench", "serve", url, "--seconds", "1", "--deadline-ms", "400"]
        told = CliRunner().invoke(app, [*arguments, "--rate", "20,30", "--rate", "600", "--json"])
        shown = CliRunner().invoke(app, [*arguments, "--rate", "40,600"])
    assert told.exit_code == 0, told.output
    rates = json.loads(told.stdout)["rates"]
    assert [(one["rate_per_s"], one["asked"]) for one in rates] == [(20, 20), (30, 30), (600, 600)]
    assert rates[0]["whole_per_s"] > rates[0]["good_per_s"] / 2
    assert rates[2]["degraded_share"] > 0.3
    assert rates[2]["degraded_by"]["shed: generative"] == round(rates[2]["degraded_share"] * rates[2]["answered"], 0)
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("warm after")
    assert lines[2].split()[:3] == ["40/s", "40.0", "40"]
    assert lines[-2].startswith("600/s: degraded by shed: generative (")


@pytest.mark.slow
def test_what_does_not_come_back_from_an_overload_is_told() -> None:
    arguments = ["--seconds", "1", "--deadline-ms", "400", "--rate", "20,600,20"]
    with running(Shop(fuse=True)) as url:
        told = CliRunner().invoke(app, ["bench", "serve", url, *arguments, "--json"])
    with running(Shop(fuse=True)) as url:
        shown = CliRunner().invoke(app, ["bench", "serve", url, *arguments])
    rates = json.loads(told.stdout)["rates"]
    assert [one["calm"] for one in rates] == [True, True, False]
    assert rates[2]["whole_per_s"] == 0
    upset = [line for line in shown.stdout.splitlines() if "did not answer whole again" in line]
    assert upset == ["20/s: began though the service did not answer whole again after the load before"]


@pytest.mark.parametrize("rate", ["0", "-3", "fast", "10,,20", "inf"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    result = CliRunner().invoke(app, ["bench", "serve", "--rate", rate])
    assert isinstance(result.exception, ConfigError)
    assert len(str(result.exception).splitlines()) == 4
