"""Ranks that run what rank 0 packs: messages, the runner that sends them, and the process that follows.

open · (methods of the runner) · write · like · compare · remains · close · end; and batches

A message is plain integers (``messages``). A batch travels as rank 0's own device gets it; what it is
padded to is told once for all that are like it, for ranks wait for whoever reads longest. Every rank launches and
captures the same batches in the same order, so their sums meet.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from genrecall.engine.config import Budgets, EngineConfig, Parallel
from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.beams import SearchShape
from genrecall.engine.device.frontier import Frontier
from genrecall.engine.device.padding import Levels
from genrecall.engine.device.parallel import Group, Leader, follow
from genrecall.engine.device.runner import Runner
from genrecall.engine.device.scoring import ForestShape
from genrecall.engine.device.shards import ALL, Blueprint, Files, Held, Source, part
from genrecall.engine.device.staging import Write
from genrecall.engine.host.step import Sizes
from genrecall.engine.messages import Packed, sizes_of, told, trie_arrays, trie_of
from genrecall.engine.worker.frames import Frame, encode
from genrecall.index.trie import Trie

_REMEMBERED = 4096
"""Kinds of batches whose numbers are known; every rank keeps so many."""


def _told(name: str) -> Callable[..., None]:
    """A method of ``Runner`` that every rank calls with the same arguments: a trie, or what JSON holds."""

    def method(self: LeadingRunner, *arguments: Any) -> None:
        tries = [argument for argument in arguments if isinstance(argument, Trie)]
        with self.leader.group.lock:
            if tries:
                self.tell(name, {"codes": tries[0].space.codes}, **trie_arrays(tries[0]))
            else:
                self.tell(name, {"arguments": arguments})
            getattr(Runner, name)(self, *arguments)

    return method


class LeadingRunner(Runner):
    """Rank 0's runner: tells the others what it is about to do, then does it.

    Whatever else ``Runner`` does to the device must be told, too: where it takes a trie or plain values, by one line
    beside ``load``.

    Args:
        leader: of the ranks.
        number: of the engine, among those of the group.
        arguments: of ``Runner``.
    """

    TOLD = ("load", "move", "wipe", "wipe_pages", "wipe_slots")
    load = _told("load")
    move = _told("move")
    wipe_pages = _told("wipe_pages")
    wipe_slots = _told("wipe_slots")

    def __init__(self, *arguments: Any, leader: Leader, number: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.leader, self._number = leader, number
        self._last: torch.Tensor | None = None
        self._told: dict[tuple[Any, ...], int] = {}

    def wipe(self) -> None:
        """See ``Runner``; of what was kept to be compared, too."""
        self._last = None
        _told("wipe")(self)

    def filter(self, masks: Sequence[np.ndarray | None]) -> list[int]:
        """See ``Runner``; a mask travels once for as long as its row is kept."""
        rows, fresh = self.catalog.place(masks)
        if fresh:
            places, bits = [row for row, _ in fresh], self.catalog.pack([mask for _, mask in fresh])
            with self.leader.group.lock:
                self.tell("write", {"rows": places}, bits=bits.numpy())
                self.catalog.write(places, bits)
        return rows

    def search_packed(self, key: Levels, sizes: Sizes, write: Write, *_: Any) -> tuple[torch.Tensor, list[Frontier]]:
        """See ``Runner``. Nothing changes a batch between its levels, as nothing does where a graph runs them."""

        def write_and_tell(out: np.ndarray) -> None:
            write(out)
            self._tell_batch("search", key.shape, sizes, out)

        with self._together():
            found = super().search_packed(key, sizes, write_and_tell)
        self._last = found[0]
        return found

    def score_packed(self, shape: ForestShape, sizes: Sizes, write: Write, write_forest: Write) -> torch.Tensor:
        """See ``Runner``."""
        packed: list[np.ndarray] = []

        def write_and_keep(out: np.ndarray) -> None:
            write(out)
            packed.append(out)

        def write_and_tell(out: np.ndarray) -> None:
            write_forest(out)
            self._tell_batch("score", shape, sizes, packed[0], out)

        with self._together():
            self._last = super().score_packed(shape, sizes, write_and_keep, write_and_tell)
        return self._last

    def compare(self) -> bool:
        """Whether the latest batch had the same results, bit by bit, on every rank."""
        with self.leader.group.lock:
            self.tell("compare", {})
            return len(set(self.leader.group.gather(_checksum(self._last)))) == 1

    def remains(self) -> list[int]:
        """See ``Runner``."""
        with self.leader.group.lock:
            self.tell("remains", {})
            return self.leader.group.gather(*super().remains())

    def close(self) -> None:
        """The other ranks forget this engine."""
        with self.leader.group.lock:
            self.tell("close", {})

    @contextmanager
    def _together(self) -> Iterator[None]:
        """A batch of all ranks. One without memory ends all: the others are on their way already."""
        with self.leader.group.lock:
            try:
                yield
            except torch.OutOfMemoryError as error:
                self.leader.lose(str(error).splitlines()[0])

    def _tell_batch(
        self,
        kind: str,
        shape: SearchShape | ForestShape,
        sizes: Sizes,
        batch: np.ndarray,
        candidates: np.ndarray | None = None,
    ) -> None:
        graphs = self.graphs.in_haste, self.graphs.lasting
        like = (kind, shape, sizes, *graphs)
        number = self._told.get(like)
        if number is None:
            if len(self._told) == _REMEMBERED:
                self._told.clear()  # numbers are given anew
            number = self._told[like] = len(self._told)
            head = {"number": number, "batch": kind, "sizes": told(sizes), "shape": told(shape), "graphs": graphs}
            self.tell("like", head)
        self.leader.tell(Packed(self._number, number, batch, candidates).encode())

    def tell(self, kind: str, head: dict[str, Any], **arrays: np.ndarray) -> None:
        """Send a message of this engine."""
        self.leader.tell(encode(Frame(head={"kind": kind, "engine": self._number, **head}, arrays=arrays)))


@dataclass(frozen=True)
class Like:
    """What batches have in common: ``shape`` of a search's levels or of candidates, sizes, how graphs are made."""

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
            return cls(levels, sizes, *head["graphs"])
        return cls(sizes_of(ForestShape, shape), sizes, *head["graphs"])


class Handed:
    """Rank 0's state dict, handed to every rank tensor by tensor."""

    def __init__(self, held: Held, group: Group) -> None:
        self._held, self._group = held, group

    @property
    def names(self) -> Any:
        """See ``Source``."""
        return self._held.names

    def size(self, name: str) -> tuple[int, ...]:
        """See ``Source``."""
        return self._held.size(name)

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """See ``Source``."""
        whole = self._held.read(name).to(self._group.device).contiguous()
        return part(self._group.share(whole), rows, columns)


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


def told_of(
    leader: Leader, blueprint: Blueprint, trie: Trie, sid_tokens: Sequence[np.ndarray], config: EngineConfig
) -> tuple[int, Source]:
    """Let the other ranks open the engine, too. Returns its number and what rank 0 reads its own part from."""
    source, shape = blueprint.source, asdict(blueprint.shape)
    frequency = shape.pop("inverse_frequency").numpy()
    head: dict[str, Any] = {"kind": "open", "shape": shape, "config": asdict(config), "codes": trie.space.codes}
    if isinstance(source, Files):
        head["directory"] = str(source.directory.resolve())
    else:
        assert isinstance(source, Held), "weights come from files or from memory"
        head["weights"] = {name: (str(source.dtype(name))[6:], source.size(name)) for name in source.names}
        source = Handed(source, leader.group)
    tokens = np.concatenate(list(map(np.asarray, sid_tokens))).astype(np.int32)
    arrays = {"frequency": frequency, "tokens": tokens, **trie_arrays(trie)}
    leader.tell(encode(Frame(head=head, arrays=arrays)))
    number, leader.engines = leader.engines, leader.engines + 1
    return number, source


class Follower:
    """The engines of a rank that is not the first."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._runners: list[Runner | None] = []
        self._like: dict[tuple[int, int], Like] = {}
        self._last: torch.Tensor | None = None

    def run(self) -> None:
        """Do what rank 0 says until it ends."""
        with torch.inference_mode():
            while not isinstance(message := self._group.receive(), Frame) or message.head["kind"] != "end":
                self.do(message)

    def do(self, message: Frame | Packed) -> None:
        """What a message says."""
        if isinstance(message, Packed):
            self._run(message)
        elif message.head["kind"] == "open":
            self._runners.append(self._open(message))
        else:
            self._do(message)

    def _run(self, packed: Packed) -> None:
        runner, like = self._runners[packed.engine], self._like[packed.engine, packed.number]
        assert runner is not None, "a closed engine is not asked"
        runner.graphs.in_haste, runner.graphs.lasting = like.in_haste, like.lasting
        runner.tier.wait()
        if packed.candidates is None:
            assert isinstance(like.shape, Levels), "searches have no candidates"
            self._last, _ = runner.search_packed(like.shape, like.sizes, _copy(packed.batch))
        else:
            assert isinstance(like.shape, ForestShape), "candidates are scored"
            self._last = runner.score_packed(like.shape, like.sizes, _copy(packed.batch), _copy(packed.candidates))

    def _do(self, frame: Frame) -> None:
        head, arrays = frame.head, frame.arrays
        runner = self._runners[head["engine"]]
        assert runner is not None, "a closed engine is not asked"
        match head["kind"]:
            case "write":
                runner.catalog.write(head["rows"], torch.tensor(arrays["bits"]))
            case "like":
                self._like[head["engine"], head["number"]] = Like.of(head)
            case "compare":
                self._group.gather(_checksum(self._last))
            case "remains":
                self._group.gather(*runner.remains())
            case "close":
                self._last = None
                self._runners[head["engine"]] = None
                del runner
                gc.collect()
                if self._group.device.type == "cuda":
                    torch.cuda.empty_cache()  # what the next engine sizes itself by
            case kind:
                assert kind in LeadingRunner.TOLD, "rank 0 tells nothing else"
                self._last = None if kind == "wipe" else self._last
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


def _copy(packed: np.ndarray) -> Write:
    return lambda out: np.copyto(out, packed)


def _checksum(results: torch.Tensor | None) -> int:
    assert results is not None, "a batch ran"
    return zlib.crc32(results.cpu().numpy().tobytes())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is rank 0's to answer; it ends this process
    # cuBLAS's settings are rank 0's, by its environment: with others a rank would take other kernels for other bits.
    Follower(follow(sys.argv[1:])).run()
    # Without the end of an interpreter, which would wait for connections that rank 0 does not close.
    os._exit(0)
