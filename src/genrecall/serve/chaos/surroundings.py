"""Bad networks, clocks that jump, channels that misbehave: what surrounds the service."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from genrecall.serve.chaos.load import Client
from genrecall.serve.chaos.proxy import between
from genrecall.serve.chaos.scenario import DEADLINE_MS, Setting, asking, shown
from genrecall.serve.chaos.target import Target, serving, wait_until

_SPOILED = """
import os, time
from pathlib import Path
import numpy as np
from genrecall.recall.channel import Candidates

class Spoiled:
    name = "spoiled"

    def recall(self, queries, k):
        how = Path(os.environ["CHAOS_CHANNEL"]).read_text()
        if how == "slow":
            time.sleep(0.1)
        elif how == "hang":
            while Path(os.environ["CHAOS_CHANNEL"]).read_text() == "hang":
                time.sleep(0.05)
        elif how == "raise":
            raise ValueError("spoiled")
        elif how == "kill":
            os.kill(os.getpid(), 9)
        shape = (len(queries), k)
        return Candidates(items=np.full(shape, -1, np.int32), scores=np.full(shape, -np.inf, np.float32))

def make(contents):
    return Spoiled()
"""
_JUMPING = """
import os, time
_time, _time_ns = time.time, time.time_ns

def _offset():
    try:
        return int(open(os.environ["CHAOS_CLOCK"]).read() or 0)
    except OSError:
        return 0

time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + _offset() * 10**9
"""


def network(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """50 ms each way, 5% of all pieces lost; then cut for two seconds, and mended."""
    assert target is not None
    with between(target.port, delay_s=0.05, lost=0.05) as (proxy, loop):
        bodies = [f'{{"user_id":"{user}","k":10,"deadline_ms":{DEADLINE_MS}}}'.encode() for user in setting.users]
        client = Client("127.0.0.1", proxy.port, lambda number: bodies[number % len(bodies)])

        async def phases() -> tuple[list[int], list[int]]:
            bad = await client.open(10.0, float(setting.times(5, 60)))
            cutting = asyncio.create_task(client.open(20.0, 3.0))
            await asyncio.sleep(0.5)
            loop.call_soon_threadsafe(proxy.cut)
            await asyncio.sleep(2.0)
            loop.call_soon_threadsafe(proxy.mend)
            await cutting
            client.close()
            fresh = Client("127.0.0.1", proxy.port, lambda number: bodies[number % len(bodies)])
            healed = await fresh.open(10.0, 3.0)
            fresh.close()
            return bad.status, healed.status

        bad, healed = asyncio.run(phases())
    settled = wait_until(lambda: target.call("GET", "/health")[1]["inflight"] == 0, 5)
    good = sum(status == 200 for status in bad) / len(bad)
    after = sum(status == 200 for status in healed) / len(healed)
    text = (
        f"{good:.1%} answered on the bad network, {after:.1%} after the cut; nothing left behind after {shown(settled)}"
    )
    return text, good >= 0.99 and after >= 0.99 and settled is not None


def surrounded(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """A plug-in channel that is slow, hangs, raises and kills its process; a clock that jumps an hour either way."""
    planted, how, clock = setting.scratch / "planted", setting.scratch / "how", setting.scratch / "clock"
    _plant(planted)
    how.write_text("well")
    clock.write_text("0")
    path = os.pathsep.join([str(planted), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": path, "CHAOS_CHANNEL": str(how), "CHAOS_CLOCK": str(clock)}
    told, kept = [], True
    with serving(setting.bundle, setting.scratch / "around", "--classic-only", environment=environment) as own:
        user = setting.users[0]

        def ask(*channels: str) -> dict[str, object]:
            begun = time.monotonic()
            answer = own.recommend(user_id=user, k=5, channels=list(channels), deadline_ms=DEADLINE_MS)
            return {**answer, "seconds": time.monotonic() - begun}

        alone = _ids(ask("item_cf", "transition"))
        for fault in ("slow", "hang", "raise", "kill"):
            how.write_text(fault)
            answer = ask("item_cf", "transition", "spoiled")
            coverage = answer["coverage"]
            assert isinstance(coverage, dict)
            outcome = coverage["channels"]["spoiled"]["outcome"]
            same = _ids(answer) == alone or fault == "kill"  # whoever shares its process is gone with it, for once
            stated = coverage["degraded"] == (outcome not in ("ok", "empty"))
            on_time = float(str(answer["seconds"])) <= DEADLINE_MS / 1e3 + 0.05
            kept &= same and stated and on_time and len(_ids(answer)) == 5
            told.append(f"{fault}: {outcome}{'' if same else ', others changed'}{'' if on_time else ', late'}")
            how.write_text("well")
            kept &= wait_until(own.is_ready, 60) is not None
        with asking(setting, own) as seen:
            for offset in (3600, -3600, 0):
                clock.write_text(str(offset))
                time.sleep(0.7)
        event = [{"user_id": "clock", "item_id": _ids(ask("item_cf"))[0]}]
        stored = own.call("POST", "/v1/events", {"events": event})[0] == 200
        kept &= not seen.failures and seen.answers > 0 and stored
        told.append(f"clock ±1 h: {seen}")
    return "; ".join(told), kept


def _ids(answer: dict[str, object]) -> list[str]:
    items = answer["items"]
    assert isinstance(items, list)
    return [item["item_id"] for item in items]


def _plant(directory: Path) -> None:
    """A plug-in as an installed package has it, and a module that every Python process imports first."""
    info = directory / "genrecall_chaos-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: genrecall-chaos\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[genrecall.channels]\nspoiled = genrecall_chaos:make\n")
    (directory / "genrecall_chaos.py").write_text(_SPOILED)
    (directory / "sitecustomize.py").write_text(_JUMPING)
