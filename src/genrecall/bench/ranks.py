"""One model on several devices beside the same model on one: the suite ``ranks``.

    versus_one_rank.alone_ms = (latency of one request on N ranks) / (on one)

Both engines are opened after each other in one process, with the same weights and prompts; the floor of N ranks is that
of what one of them multiplies, without sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from genrecall.bench.rig import Rig, open_rig
from genrecall.bench.suites import Case, point_of, setup_of
from genrecall.engine.following import LeadingRunner
from genrecall.errors import ConfigError

if TYPE_CHECKING:
    from genrecall.bench.engine import EngineBench

_COMPARED = 32
"""Prompts whose lists are compared."""


def ranks(bench: EngineBench) -> Iterator[Case]:
    """Every beam with every precision.

    Raises:
        ConfigError: there is only one rank.
    """
    if bench.ranks < 2:
        raise ConfigError(
            "one rank is nothing to compare", seen="--tp 1", allowed="2 or more", fix="give --tp, or another --suite"
        )
    for precision in bench.precisions:
        for beam in bench.beams:
            yield Case(
                name=f"{precision} W={beam} on {bench.ranks} ranks",
                setup=None,
                run=partial(_both, bench, precision, beam),
            )


def _both(bench: EngineBench, precision: str, beam: int, rig: None) -> dict[str, Any]:
    plain = setup_of(bench, precision)
    one, lists, _alone = _measured(bench, open_rig(plain, bench.torch_device, bench.seed), beam)
    spread = replace(plain, ranks=bench.ranks, all_reduce=bench.all_reduce)
    several, found, equal = _measured(bench, open_rig(spread, bench.torch_device, bench.seed), beam)
    both = list(zip(found, lists, strict=True))
    versus = {
        "requests_per_s": several["requests_per_s"] / one["requests_per_s"],
        "equal_lists": sum(ours == theirs for ours, theirs in both) / len(both),
        "shared_sids": float(np.mean([len(set(ours) & set(theirs)) / len(theirs) for ours, theirs in both])),
    }
    if "alone_ms" in several:
        versus["alone_ms"] = several["alone_ms"] / one["alone_ms"]
    return {
        **several, "ranks": bench.ranks, "all_reduce": bench.all_reduce, "equal_on_every_rank": equal,
        "versus_one_rank": versus, "one_rank": one,
    }  # fmt: skip


def _measured(bench: EngineBench, rig: Rig, beam: int) -> tuple[dict[str, Any], list[list[Any]], bool]:
    """A point, lists of a few prompts, and whether every rank has them bit by bit."""
    point = point_of(bench, beam, rig)
    rig.limit(None)
    make = rig.maker(beam, *bench.input)
    lists = [answer.sids for answer in rig.engine.generate([make(number) for number in range(_COMPARED)])]
    runner = rig.engine.loop.runner
    equal = runner.compare() if isinstance(runner, LeadingRunner) else True
    rig.close()
    return point, lists, equal
