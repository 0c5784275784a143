"""One model on several devices beside the same model on one: the suite ``ranks``.

    versus_one_rank.alone_ms = (latency of one request on N ranks) / (on one)

All engines are opened after each other in one process, with the same weights and prompts; the floor of N ranks is that
of what one of them multiplies, without sums. Further numbers of ranks go into the same file by further runs: the engine
of one rank is measured once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from genrecall.bench.rig import Rig
from genrecall.bench.suites import Case, point_of, setup_of
from genrecall.engine.leading import LeadingRunner
from genrecall.errors import ConfigError

if TYPE_CHECKING:
    from genrecall.bench.engine import EngineBench

_COMPARED = 32
"""Prompts whose lists are compared."""


def ranks(bench: EngineBench) -> Iterator[Case]:
    """Every beam with every precision: on one rank, on N with every way to sum, and with prompts shared by tokens.

    Raises:
        ConfigError: there is only one rank.
    """
    if bench.ranks < 2:
        raise ConfigError(
            "one rank is nothing to compare", seen="--tp 1", allowed="2 or more", fix="give --tp, or another --suite"
        )
    for precision in bench.precisions:
        plain = setup_of(bench, precision)
        spread = {
            f"{bench.ranks} ranks, {name}": replace(plain, ranks=bench.ranks, all_reduce=name)
            for name in bench.all_reduce
        }
        if bench.sequence_tokens:
            by_tokens = replace(plain, ranks=bench.ranks, sequence_tokens=bench.sequence_tokens)
            spread[f"{bench.ranks} ranks, by tokens from {bench.sequence_tokens}"] = by_tokens
        for where, setup in {"1 rank": plain, **spread}.items():
            for beam in bench.beams:
                name, one = f"{precision} W={beam} on {where}", f"{precision} W={beam} on 1 rank"
                versus = None if setup.ranks == 1 else partial(_versus, one)
                yield Case(name=name, setup=setup, run=partial(_measured, bench, beam), versus=versus)


def _measured(bench: EngineBench, beam: int, rig: Rig) -> dict[str, Any]:
    """A point, and lists of a few prompts; of several ranks, whether every one of them has these bit by bit."""
    point = point_of(bench, beam, rig)
    rig.limit(None)
    rig.rng = np.random.default_rng(bench.seed)  # the same prompts, whatever was measured before
    make = rig.maker(beam, *bench.input)
    answers = rig.engine.generate([make(number) for number in range(_COMPARED)])
    point["lists"] = [" ".join("-".join(map(str, sid)) for sid in answer.sids) for answer in answers]
    runner = rig.engine.loop.runner
    if isinstance(runner, LeadingRunner):
        point["equal_on_every_rank"] = runner.compare()
    return point


def _versus(one: str, several: Mapping[str, Any], cases: Mapping[str, Any]) -> dict[str, Any]:
    """Ratios to one rank, and how many lists are its own."""
    alone = cases[one]
    if "error" in alone:
        return {"versus_one_rank": None}
    both = [(ours.split(), theirs.split()) for ours, theirs in zip(several["lists"], alone["lists"], strict=True)]
    versus = {
        "requests_per_s": several["requests_per_s"] / alone["requests_per_s"],
        "equal_lists": sum(ours == theirs for ours, theirs in both) / len(both),
        "shared_sids": float(np.mean([len(set(ours) & set(theirs)) / len(theirs) for ours, theirs in both])),
    }
    if "alone_ms" in several:
        versus["alone_ms"] = several["alone_ms"] / alone["alone_ms"]
    return {"versus_one_rank": versus}
