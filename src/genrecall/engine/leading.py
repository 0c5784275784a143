"""Rank 0's runner, which tells the other ranks what it is about to do, and then does it.

open · (methods of the runner) · write · like · compare · remains · close · end; and batches

A message is plain integers (``messages``). A batch is announced before it is packed, and then travels as rank 0's own
device gets it; what it is padded to is told once for all that are like it, for ranks wait for whoever reads longest.
Every rank launches and captures the same batches in the same order, so their sums meet.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from genrecall.engine.config import EngineConfig
from genrecall.engine.device.beams import SearchShape
from genrecall.engine.device.frontier import Frontier
from genrecall.engine.device.padding import Levels
from genrecall.engine.device.parallel import Group
from genrecall.engine.device.runner import Runner
from genrecall.engine.device.scoring import ForestShape
from genrecall.engine.device.shards import ALL, Blueprint, Files, Held, Source, part
from genrecall.engine.device.staging import Write
from genrecall.engine.host.step import Sizes
from genrecall.engine.messages import announced, told, trie_arrays
from genrecall.engine.ranks import Leader
from genrecall.engine.worker.frames import Frame, encode
from genrecall.index.trie import Trie

_REMEMBERED = 4096
"""Kinds of batches of an engine whose numbers are known; every rank keeps so many."""


def _told(name: str) -> Callable[..., None]:
    """A method of ``Runner`` that every rank calls with the same arguments: a trie, or what JSON holds."""

    def method(self: LeadingRunner, *arguments: Any) -> None:
        tries = [argument for argument in arguments if isinstance(argument, Trie)]
        with self._together():
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
            with self._together():
                self.tell("write", {"rows": places}, bits=bits.numpy())
                self.catalog.write(places, bits)
        return rows

    def search_packed(self, key: Levels, sizes: Sizes, write: Write, *_: Any) -> tuple[torch.Tensor, list[Frontier]]:
        """See ``Runner``. Nothing changes a batch between its levels, as nothing does where a graph runs them."""
        with self._together():
            self._announce("search", key.shape, sizes)
            found = super().search_packed(key, sizes, self._telling(write))
        self._last = found[0]
        return found

    def score_packed(self, shape: ForestShape, sizes: Sizes, write: Write, write_forest: Write) -> torch.Tensor:
        """See ``Runner``."""
        with self._together():
            self._announce("score", shape, sizes)
            self._last = super().score_packed(shape, sizes, self._telling(write), self._telling(write_forest))
        return self._last

    def compare(self) -> bool:
        """Whether the latest batch had the same results, bit by bit, on every rank."""
        with self._together():
            self.tell("compare", {})
            return len(set(self.leader.group.gather(checksum(self._last)))) == 1

    def remains(self) -> list[int]:
        """See ``Runner``."""
        with self._together():
            self.tell("remains", {})
            return self.leader.group.gather(*super().remains())

    def close(self) -> None:
        """The other ranks forget this engine."""
        with self.leader.group.lock:
            self.tell("close", {})

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What all ranks do: they end together where rank 0 has told it and does not do it, for a device fails, is full
        or hears no more of another, or Ctrl-C comes between.
        """
        with self.leader.group.lock:
            try:
                yield
            except BaseException as error:
                self.leader.lose((str(error) or type(error).__name__).splitlines()[0])

    def _announce(self, kind: str, shape: SearchShape | ForestShape, sizes: Sizes) -> None:
        graphs = self.graphs.in_haste, self.graphs.lasting
        like = (kind, shape, sizes, *graphs)
        number = self._told.get(like)
        if number is None:
            if len(self._told) == _REMEMBERED:
                self._told.clear()  # numbers are given anew
            number = self._told[like] = self._number * _REMEMBERED + len(self._told)
            head = {"number": number, "batch": kind, "sizes": told(sizes), "shape": told(shape), "graphs": graphs}
            self.tell("like", head)
        self.leader.tell(announced(number))

    def _telling(self, write: Write) -> Write:
        """Whatever is written is told."""

        def write_and_tell(out: np.ndarray) -> None:
            write(out)
            self.leader.tell(out.data)

        return write_and_tell

    def tell(self, kind: str, head: dict[str, Any], **arrays: np.ndarray) -> None:
        """Send a message of this engine."""
        self.leader.tell(encode(Frame(head={"kind": kind, "engine": self._number, **head}, arrays=arrays)))


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


def checksum(results: torch.Tensor | None) -> int:
    """Of a batch's results."""
    assert results is not None, "a batch ran"
    return zlib.crc32(results.cpu().numpy().tobytes())
