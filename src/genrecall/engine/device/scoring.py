"""Teacher-forced scores of given SIDs: every distinct prefix of a request runs once.

``score(s) = Σ_l z_l[s_l] − log Σ_{c ∈ valid} exp z_l[c]``, the sum that the search ranks by. Candidates of a request
are merged into their prefix tree, as in tree attention (SpecInfer, Miao et al. 2023, arXiv 2305.09781); we deviate: the
tree is the catalog's own trie, and what it forces is not run at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genrecall.engine.config import Normalise
from genrecall.engine.device.batch import request_of
from genrecall.engine.device.catalog import DeviceCatalog
from genrecall.engine.device.decoder import BeamRows, Reading
from genrecall.engine.device.open import SidDecoder
from genrecall.engine.device.staging import aligned
from genrecall.engine.host.step import fit
from genrecall.index.trie import Trie
from genrecall.kernels.rows import RowRanges
from genrecall.kernels.trie_select import log_normaliser


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """SIDs of one request that the trie holds.

    Attributes:
        codes: int32 (n, L).
        paths: int64 (n, L+1), their nodes, the root first.
        prefixes: for levels 1 … L-1 the distinct nodes that must run, ascending.
    """

    codes: np.ndarray
    paths: np.ndarray
    prefixes: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, codes: np.ndarray, paths: np.ndarray, trie: Trie, normalise: Normalise) -> Candidates:
        """Merge prefixes."""
        prefixes = []
        for level in range(1, trie.space.levels):
            nodes = np.unique(paths[:, level])
            prefixes.append(nodes[trie.num_sids[nodes] > 1] if normalise == "trie" else nodes)
        return cls(codes=codes, paths=paths, prefixes=tuple(prefixes))

    @property
    def rows(self) -> tuple[int, ...]:
        """Beams after each level, as the scheduler counts them."""
        return (*map(len, self.prefixes), len(self.codes))


@dataclass(frozen=True)
class ForestShape:
    """Static sizes of a batch of candidates.

    Attributes:
        requests: R places.
        rows: of levels 1 … L-1, padded; 0 where all of a level is forced.
        candidates: n, padded.
        widest: the most rows of one request at any level, rounded up to a power of two.
    """

    requests: int
    rows: tuple[int, ...]
    candidates: int
    widest: int

    @property
    def sizes(self) -> list[int]:
        """Of the parts, up to 16 bytes: begin, count, parent, code, node of every level, then rows and codes picked."""
        places = aligned(self.requests + 1), aligned(self.requests)
        levels = [size for rows in self.rows for size in (*places, rows, rows, rows)]
        return levels + [self.candidates] * (2 * (len(self.rows) + 1))

    @staticmethod
    def most(requests: int, rows: int, levels: int) -> int:
        """Integers of the largest one."""
        return sum(ForestShape(requests, (rows,) * (levels - 1), rows, 1).sizes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """The prefix trees of a batch, as integers in the order of ``ForestShape.sizes``; the host knows all of it before
    anything runs, so that one copy is enough and one graph holds all levels.
    """

    shape: ForestShape
    parts: Sequence[np.ndarray]

    @classmethod
    def of(cls, wanted: Sequence[Candidates], trie: Trie, requests: int) -> Forest:
        """Lay out the candidates of up to R requests."""
        levels, stride = trie.space.levels, trie.num_nodes
        owner = np.repeat(np.arange(len(wanted)), [len(one.codes) for one in wanted])
        codes = np.concatenate([one.codes for one in wanted])
        paths = np.concatenate([one.paths for one in wanted])
        padded = fit(len(codes))
        rows, widest, before = [], 1, np.zeros(0, np.int64)
        parts, picked = [], [_padded(owner, padded, -1)]
        for level in range(1, levels):
            # Requests are told apart by a multiple of the number of nodes, so that one search serves all.
            keys = np.concatenate([place * stride + one.prefixes[level - 1] for place, one in enumerate(wanted)])
            count = np.zeros(requests, np.int64)
            count[: len(wanted)] = [len(one.prefixes[level - 1]) for one in wanted]
            nodes, size = keys % stride, fit(len(keys))
            begin = np.full(requests + 1, size)
            begin[: len(wanted)] = (np.cumsum(count) - count)[: len(wanted)]
            # A node that must run has a parent that must.
            parent = np.searchsorted(trie.child_begin, nodes - 1, side="right") - 1
            above = np.searchsorted(before, keys - nodes + parent) if level > 1 else np.zeros(len(keys), np.int64)
            parts += [
                _padded(begin, aligned(len(begin))),
                _padded(count, aligned(len(count))),
                _padded(above, size),
                _padded(trie.child_code[nodes - 1], size),
            ]
            parts.append(
                _padded(nodes, size, trie.nodes_at(level).start)
            )  # no other level's node has codes of this one
            picked.append(_padded(_place(keys, owner * stride + paths[:, level]), padded, -1))
            rows.append(size)
            widest, before = max(widest, int(count.max())), keys
        parts += [*picked, *(_padded(codes[:, level], padded) for level in range(levels))]
        shape = ForestShape(requests, tuple(rows), padded, 1 << (widest - 1).bit_length())
        return cls(shape=shape, parts=parts)

    def write(self, out: np.ndarray) -> None:
        """Into int32 of the sum of ``shape.sizes``."""
        np.concatenate(self.parts, out=out, casting="unsafe")


class Scoring:
    """Scores with one decoder and one catalog; arguments as of ``BeamSearch``."""

    def __init__(
        self, decoder: SidDecoder, catalog: DeviceCatalog, sid_tokens: Sequence[torch.Tensor], normalise: Normalise
    ) -> None:
        self.decoder, self.catalog, self.sid_tokens, self.normalise = decoder, catalog, sid_tokens, normalise

    def score(self, shape: ForestShape, flat: torch.Tensor, reading: Reading) -> torch.Tensor:
        """Log-probabilities float32 (L, n) of the codes of all candidates, 0 where a code is forced; nothing here waits
        for the device.

        Args:
            shape: of the forest.
            flat: int32, what ``Forest.write`` wrote.
            reading: of the prompts.
        """
        parts = flat.split(shape.sizes)
        levels = len(self.sid_tokens)
        picked, codes = parts[-2 * levels : -levels], parts[-levels:]
        logits = self.decoder.level_logits(reading.hidden, 0)
        node = flat.new_zeros(len(logits))
        ancestry, written = flat.new_empty(len(logits), 0), 0
        found = [self._level(logits, 0, node, picked[0], codes[0])]
        for level, rows in enumerate(shape.rows, 1):
            begin, count, parent, code, node = parts[5 * level - 5 : 5 * level]
            if rows == 0:
                found.append(torch.zeros_like(found[0]))
                continue
            own = torch.arange(written, written + rows, dtype=torch.int32, device=flat.device)
            ancestry = torch.cat([ancestry[parent], own[:, None]], dim=1)
            beams = BeamRows(
                ranges=RowRanges(begin=begin[: shape.requests + 1], count=count[: shape.requests]),
                request=request_of(begin[: shape.requests + 1], rows),
                ancestry=ancestry,
                table=reading.table,
                length=reading.length,
                widest=shape.widest,
            )
            hidden = self.decoder.step(self.sid_tokens[level - 1][code], beams)
            logits = self.decoder.level_logits(hidden, level)
            found.append(self._level(logits, level, node, picked[level], codes[level]))
            written += rows
        return torch.stack(found)

    def _level(
        self, logits: torch.Tensor, level: int, node: torch.Tensor, row: torch.Tensor, code: torch.Tensor
    ) -> torch.Tensor:
        """float32 (n,)."""
        index = torch.arange(len(node), dtype=torch.int32, device=logits.device)
        normaliser = log_normaliser(logits, index, node, self.catalog.children(level), self.normalise)
        at = row.clamp(min=0).long()
        return torch.where(row >= 0, logits[at, code.long()] - normaliser[at], 0.0)


def _place(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Place of each wanted key among ascending ``keys``; -1 where it is not there."""
    if len(keys) == 0:
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def _padded(values: np.ndarray, size: int, padding: int = 0) -> np.ndarray:
    return np.append(values, np.full(size - len(values), padding))
