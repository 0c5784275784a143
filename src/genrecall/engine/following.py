"""The process of a rank that is not the first: it does what rank 0 tells it (``leading``)."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from genrecall.engine.config import Budgets, EngineConfig, Parallel
from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.beams import SearchShape
from genrecall.engine.device.padding import Levels
from genrecall.engine.device.parallel import Group
from genrecall.engine.device.runner import Runner
from genrecall.engine.device.scoring import ForestShape
from genrecall.engine.device.shards import ALL, Blueprint, Files, Source, part
from genrecall.engine.host.step import Sizes
from genrecall.engine.leading import LeadingRunner, checksum
from genrecall.engine.messages import Inbox, sizes_of, trie_of
from genrecall.engine.ranks import STATUS, follow
from genrecall.engine.worker.frames import Frame

_AWAKE_S = 0.2


@dataclass(frozen=True)
class Like:
    """What batches of an engine have in common: ``shape`` of levels or of candidates, sizes, how graphs are made."""

    engine: int
    shape: Levels | ForestShape
    sizes: Sizes
    in_haste: bool
    lasting: bool

    @classmethod
    def of(cls, head: Mapping[str, Any]) -> Like:
        """What ``LeadingRunner`` told."""
        sizes, shape = sizes_of(Sizes, head["sizes"]), head["shape"]
        if head["batch"] == "search":
            levels = Levels(sizes.requests, sizes.pages, sizes_of(SearchShape, shape))
            return cls(head["engine"], levels, sizes, *head["graphs"])
        return cls(head["engine"], sizes_of(ForestShape, shape), sizes, *head["graphs"])


class Received:
    """What ``Handed`` hands out, on the other ranks.

    Args:
        listed: type and shape by name.
        group: of the ranks.
    """

    def __init__(self, listed: dict[str, tuple[str, list[int]]], group: Group) -> None:
        self._listed, self._group = listed, group

    @property
    def names(self) -> Any:
        """See ``Source``."""
        return self._listed.keys()

    def size(self, name: str) -> tuple[int, ...]:
        """See ``Source``."""
        return tuple(self._listed[name][1])

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """See ``Source``."""
        dtype, size = self._listed[name]
        whole = torch.empty(size, dtype=getattr(torch, dtype), device=self._group.device)
        return part(self._group.share(whole), rows, columns)


class Follower:
    """The engines of a rank that is not the first.

    Args:
        group: of the ranks.
        inbox: rank 0's messages.
    """

    def __init__(self, group: Group, inbox: Inbox) -> None:
        self._group, self._inbox = group, inbox
        self._runners: list[Runner | None] = []
        self._like: dict[int, Like] = {}
        self._last: dict[int, torch.Tensor] = {}  # by engine

    def run(self) -> None:
        """Do what rank 0 says until it ends."""
        with torch.inference_mode():
            while not isinstance(message := self._next(), Frame) or message.head["kind"] != "end":
                self.do(message)

    def _next(self) -> Frame | int:
        """The next message of rank 0, for which all GPUs wait; where that is gone, this process ends here."""
        self._watch()
        found = self._inbox.receive()
        if found is None:
            os._exit(STATUS)
        return found

    def _write(self, out: np.ndarray) -> None:
        """A batch, once rank 0 has packed it."""
        self._watch()
        if not self._inbox.read(out):
            os._exit(STATUS)

    def _watch(self) -> None:
        self._inbox.watch(_AWAKE_S if self._group.device.type == "cuda" else 0.0)

    def do(self, message: Frame | int) -> None:
        """What a message says."""
        if isinstance(message, int):
            self._run(message)
        elif message.head["kind"] == "open":
            self._runners.append(self._open(message))
        else:
            self._do(message)

    def _run(self, number: int) -> None:
        like = self._like[number]
        runner = self._runners[like.engine]
        assert runner is not None, "a closed engine is not asked"
        runner.graphs.in_haste, runner.graphs.lasting = like.in_haste, like.lasting
        runner.tier.wait()
        if isinstance(like.shape, Levels):
            self._last[like.engine], _ = runner.search_packed(like.shape, like.sizes, self._write)
        else:
            self._last[like.engine] = runner.score_packed(like.shape, like.sizes, self._write, self._write)

    def _do(self, frame: Frame) -> None:
        head, arrays = frame.head, frame.arrays
        runner = self._runners[head["engine"]]
        assert runner is not None, "a closed engine is not asked"
        match head["kind"]:
            case "write":
                runner.catalog.write(head["rows"], torch.tensor(arrays["bits"]))
            case "like":
                self._like[head["number"]] = Like.of(head)
            case "compare":
                self._group.gather(checksum(self._last.get(head["engine"])))
            case "remains":
                self._group.gather(*runner.remains())
            case "close":
                self._last.pop(head["engine"], None)
                self._runners[head["engine"]] = None
                self._like = {number: like for number, like in self._like.items() if like.engine != head["engine"]}
                del runner
                gc.collect()
                if self._group.device.type == "cuda":
                    torch.cuda.empty_cache()  # what the next engine sizes itself by
            case kind:
                assert kind in LeadingRunner.TOLD, "rank 0 tells nothing else"
                if kind == "wipe":
                    self._last.pop(head["engine"], None)
                getattr(runner, kind)(*([trie_of(frame)] if "codes" in head else head["arguments"]))

    def _open(self, frame: Frame) -> Runner:
        from genrecall.engine.setup import build

        head, trie = frame.head, trie_of(frame)
        shape = Architecture(**head["shape"], inverse_frequency=torch.from_numpy(frame.arrays["frequency"].copy()))
        source: Source = Files(head["directory"]) if "directory" in head else Received(head["weights"], self._group)
        settings = dict(head["config"])
        config = EngineConfig(
            **{**settings, "budgets": Budgets(**settings["budgets"]), "parallel": Parallel(**settings["parallel"])}
        )
        tokens = np.split(frame.arrays["tokens"].copy(), np.cumsum(head["codes"])[:-1])
        with torch.no_grad():
            return build(Blueprint(shape=shape, source=source), trie, tokens, config, group=self._group).runner


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is rank 0's to answer; it ends this process
    # cuBLAS's settings are rank 0's, by its environment: with others a rank would take other kernels for other bits.
    Follower(*follow(sys.argv[1:])).run()
    # Without the end of an interpreter, which would wait for connections that rank 0 does not close.
    os._exit(0)
