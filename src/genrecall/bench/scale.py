"""Cases of size: catalogs of 10 million items and their swap, prompts of thousands of tokens, a cold start.

Where two settings are compared, both are measured in the same case.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from genrecall.bench.load import saturated
from genrecall.bench.options import widest
from genrecall.bench.rig import Rig
from genrecall.bench.shapes import shape_of
from genrecall.bench.suites import Case, saturated_point, setup_of
from genrecall.engine.host.request import Request
from genrecall.errors import GenrecallError
from genrecall.index.trie import Trie

if TYPE_CHECKING:
    from genrecall.bench.engine import EngineBench


def catalogs(bench: EngineBench) -> Iterator[Case]:
    """100 times the catalog, and a catalog that is swapped all the while."""
    small = setup_of(bench, bench.precisions[0])
    large = replace(small, items=bench.large_items)
    for setup, name in ((small, "catalog"), (large, "large catalog")):
        yield Case(name=name, setup=setup, run=lambda rig: _catalog(bench, rig))
        yield Case(name=f"{name} swapped under load", setup=setup, run=lambda rig: _swapped(bench, rig))
    yield Case(name="valid and distinct", setup=small, run=lambda rig: _valid(bench, rig))


def long(bench: EngineBench) -> Iterator[Case]:
    """Long prompts, kept prefixes, and a mixture from short to long."""
    setup = setup_of(bench, bench.precisions[0])
    yield Case(name="long prompts", setup=setup, run=lambda rig: _long(bench, rig))
    yield Case(name="kept prefixes", setup=setup, run=lambda rig: _kept(bench, rig))
    room = max(12 * bench.long_prompt, shape_of(bench.shape).window)
    for name, host in (("forgotten", 0), ("kept in host memory", 40 * bench.long_prompt)):
        small = replace(setup, kv_tokens=room, host_kv_tokens=host)
        yield Case(name=f"prefixes {name}", setup=small, run=lambda rig: _kept(bench, rig))
    yield Case(name="short to long prompts", setup=setup, run=lambda rig: _range(bench, rig))


def start(bench: EngineBench) -> Iterator[Case]:
    """Seconds from a new process to its first answer, with empty and with full compilation caches."""
    yield Case(name="start", setup=None, run=lambda _: _start(bench))


def _catalog(bench: EngineBench, rig: Rig) -> dict[str, Any]:
    started = time.perf_counter()
    space, trie = rig.space, rig.trie
    sids = np.random.default_rng(1).integers(0, max(space.codes), (trie.num_items, space.levels), dtype=np.int32)
    drawn = time.perf_counter()
    Trie.build(space, sids % np.array(space.codes, dtype=np.int32))
    figures: dict[str, Any] = {
        "items": trie.num_items,
        "build_s": time.perf_counter() - drawn,
        "drawn_s": drawn - started,
    }
    for beam in sorted({min(bench.beams), widest(bench)}):
        figures[f"W={beam}"] = saturated_point(bench, rig, beam)
    return figures | rig.facts()


def _swapped(bench: EngineBench, rig: Rig) -> dict[str, Any]:
    """Another catalog as soon as the one before is in: made ready on a thread of its own, as a server does."""
    beam, engine = min(bench.beams), rig.engine
    make, sizes = rig.maker(beam, *bench.input), rig.sizes(bench.batches, min(bench.beams))
    still = rig.saturated(make, sizes, bench.seconds)
    rng = np.random.default_rng(2)
    codes = np.array(rig.space.codes, dtype=np.int32)
    shape = (int(rig.trie.num_items * 0.98), rig.space.levels)
    other = Trie.build(rig.space, rng.integers(0, int(codes.max()), shape, dtype=np.int32) % codes)
    tries, swaps = [other, rig.trie], 0
    making = threading.Thread(target=engine.prepare, args=(tries[0],))
    making.start()

    def swap() -> None:
        nonlocal making, swaps
        if making.is_alive():
            return
        engine.swap(tries[swaps % 2])
        swaps += 1
        making = threading.Thread(target=engine.prepare, args=(tries[swaps % 2],))
        making.start()

    for _ in range(3):  # bounds that another catalog has get graphs of their own
        found = saturated(engine, make, outstanding=3 * still["batch"], seconds=max(bench.seconds, 2.0), meanwhile=swap)
    making.join()
    engine.swap(rig.trie)
    return {
        "beam": beam, "items": rig.trie.num_items, "swaps": swaps, "plain": still, "requests_per_s": found.rate,
        "longest_gap_ms": found.longest_gap_ms, "ratio": found.rate / still["requests_per_s"],
    }  # fmt: skip


def _valid(bench: EngineBench, rig: Rig) -> dict[str, Any]:
    """Every one of so many returned SIDs is in the catalog and none comes twice in an answer.

    Raises:
        GenrecallError: one is not, or does.
    """
    beam, trie, returned = widest(bench), rig.trie, 0
    make = rig.maker(beam, *bench.input)
    size = rig.sizes((max(bench.batches),), beam)[0]
    number = 0
    while returned < bench.checked_beams:
        for answer in rig.engine.generate([make(number + place) for place in range(size)]):
            sids = np.array(answer.sids).reshape(-1, rig.space.levels)
            invalid = int((trie.paths(sids)[:, -1] < 0).sum())
            twice = len(sids) - len(np.unique(sids, axis=0))
            if invalid or twice:
                raise GenrecallError(
                    "the engine returned what it must not", seen=f"{invalid} invalid SIDs, {twice} twice",
                    allowed="none", fix="report this with the command that was run",
                )  # fmt: skip
            returned += len(sids)
        number += size
    return {"beam": beam, "returned": returned, "invalid": 0, "twice": 0}


def _long(bench: EngineBench, rig: Rig) -> dict[str, Any]:
    """Prompts of ``long_prompt`` tokens; attention's share of decoding is taken where all but a page is kept."""
    beam, length = widest(bench), bench.long_prompt
    figures = saturated_point(bench, rig, beam, length)
    prompts = rig.prompts(length, length, 8)

    def kept(number: int) -> Request:
        return Request(tokens=prompts[number % len(prompts)], beam=beam, user=f"{number % len(prompts)}")

    rig.engine.generate([kept(number) for number in range(8)])
    figures["gpu_time_of_decoding"] = rig.gpu_time(kept, 8)
    if by_kind := figures["gpu_time_of_decoding"].get("by_kind_ms"):
        figures["attention_share_of_decoding"] = by_kind.get("attention", 0.0) / sum(by_kind.values())
    for number in range(8):
        rig.engine.purge(f"{number}")
    return figures


def _kept(bench: EngineBench, rig: Rig) -> dict[str, Any]:
    """Nine tenths of every long prompt are kept from the user's last visit, beside prompts of nobody."""
    length, users = bench.long_prompt, 32
    head = length * 9 // 10
    heads = rig.prompts(head, head, users)
    tails = rig.prompts(length - head, length - head)
    figures: dict[str, Any] = {"tokens": length, "users": users}
    cache = rig.engine.loop.scheduler.cache
    found = {"hit": 0, "from_host": 0, "read": 0}
    for beam in sorted({min(bench.beams), min(50, widest(bench)), widest(bench)}):
        sizes = rig.sizes(bench.batches, beam)
        rates = {}
        for name in ("cold", "kept"):

            def make(number: int, beam: int = beam, name: str = name) -> Request:
                user = number % users
                tokens = heads[user] + tails[number % len(tails)]
                return Request(tokens=tokens, beam=beam, user=f"{user}" if name == "kept" else None)

            if name == "kept":  # every user has been here before
                rig.engine.generate([make(number) for number in range(users)])
            before = (cache.hit_tokens, cache.onboarded_tokens, cache.read_tokens)
            rates[name] = rig.saturated(make, sizes, bench.seconds)
            if name == "kept":
                now = (cache.hit_tokens, cache.onboarded_tokens, cache.read_tokens)
                found = {kind: found[kind] + new - old for kind, new, old in zip(found, now, before, strict=True)}
        ratio = rates["kept"]["requests_per_s"] / rates["cold"]["requests_per_s"]
        rows = rig.rows(length, beam)
        figures[f"W={beam}"] = {**rates, "ratio": ratio, "ratio_of_rows": sum(rows) / (sum(rows) - head)}
    figures["tokens_kept"] = found
    for user in range(users):
        rig.engine.purge(f"{user}")
    return figures


def _range(bench: EngineBench, rig: Rig) -> dict[str, Any]:
    beam = min(50, widest(bench))
    sizes = rig.sizes(bench.batches, beam)
    least = max(1, min(30, bench.input[0]))
    return {
        "beam": beam, "tokens": [least, bench.long_prompt],
        **rig.saturated(rig.maker(beam, least, bench.long_prompt), sizes, bench.seconds), **rig.facts(),
    }  # fmt: skip


def _start(bench: EngineBench) -> dict[str, Any]:
    """Two processes after each other that share a cache which was empty before."""
    arguments = {
        "shape": bench.shape, "precision": bench.precisions[0], "levels": bench.levels, "codes": bench.codes,
        "items": bench.catalog_items, "beam": widest(bench), "input": bench.input[0],
        "batches": [1, max(bench.batches)], "device": bench.device,
    }  # fmt: skip
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as caches:
        for name in ("cold caches", "warm caches"):
            begun = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "genrecall.bench.start", json.dumps(arguments)],
                env={**os.environ, "GENRECALL_CACHE": caches}, stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            figures[name] = {"process_s": time.perf_counter() - begun, **json.loads(done.stdout.splitlines()[-1])}
    return figures
