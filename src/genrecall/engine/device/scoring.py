"""Teacher-forced scores of given SIDs: every distinct prefix of a request runs once, all of them in one pass.

``score(s) = Σ_l z_l[s_l] − log Σ_{c ∈ valid} exp z_l[c]``, the sum that the search ranks by. Candidates of a request
are merged into their prefix tree, as in tree attention (SpecInfer, Miao et al. 2023, arXiv 2305.09781); we deviate: the
tree is the catalog's own trie, and what it forces is not run at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from genrecall.engine.config import Normalise
from genrecall.engine.device.catalog import DeviceCatalog
from genrecall.engine.device.decoder import BeamRows, Reading
from genrecall.engine.device.open import SidDecoder
from genrecall.engine.device.staging import laid_out
from genrecall.engine.host.step import fit
from genrecall.index.trie import Trie
from genrecall.kernels.rows import RowRanges
from genrecall.kernels.trie_select import log_normaliser


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """SIDs of one request that the trie holds, in SID order.

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
            path = paths[:, level]
            nodes = path[np.flatnonzero(np.diff(path, prepend=-1))]
            prefixes.append(nodes[trie.num_sids[nodes] > 1] if normalise == "trie" else nodes)
        return cls(codes=codes, paths=paths, prefixes=tuple(prefixes))

    @property
    def rows(self) -> tuple[int, ...]:
        """Beams after each level, as the scheduler counts them."""
        return (*map(len, self.prefixes), len(self.codes))


def held(paths: np.ndarray) -> np.ndarray:
    """Which of M paths int64 (M, L+1) of a trie are whole, in SID order."""
    leaf = paths[:, -1]
    order = np.argsort(leaf, kind="stable")
    return order[np.searchsorted(leaf[order], 0) :]


@dataclass(frozen=True)
class ForestShape:
    """Static sizes of a batch of candidates.

    Attributes:
        requests: R places.
        rows: of levels 1 … L-1, padded; 0 where all of a level is forced. M in all.
        candidates: n, padded.
        widest: the most rows of one request at any level, rounded up to a power of two.
    """

    requests: int
    rows: tuple[int, ...]
    candidates: int
    widest: int

    @cached_property
    def fields(self) -> dict[str, slice]:
        """Where each field lies: of all rows request, code (levels told apart) and node; of every candidate and level
        the row that scores it, and its code; of every level where its requests' rows are, and their paths.
        """
        rows, picked = sum(self.rows), (len(self.rows) + 1) * self.candidates
        sizes = {"request": rows, "code": rows, "node": rows, "row": picked, "picked": picked}
        for level, own in enumerate(self.rows, 1):
            sizes |= {
                f"begin {level}": self.requests + 1,
                f"count {level}": self.requests,
                f"path {level}": own * level,
            }
        return laid_out(sizes)

    @property
    def size(self) -> int:
        """Integers in all."""
        return max(where.stop for where in self.fields.values())

    @staticmethod
    def most(requests: int, rows: int, levels: int) -> int:
        """Integers of the largest one."""
        return ForestShape(requests, (rows,) * (levels - 1), rows, 1).size


@dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """The prefix trees of a batch, as integers where ``ForestShape.fields`` says; the host knows all of it before
    anything runs, so that one copy is enough and one graph holds all levels.
    """

    shape: ForestShape
    parts: dict[str, np.ndarray]

    @classmethod
    def of(cls, wanted: Sequence[Candidates], trie: Trie, requests: int) -> Forest:
        """Lay out the candidates of up to R requests."""
        levels, stride = trie.space.levels, trie.num_nodes
        owner = np.repeat(np.arange(len(wanted)), [len(one.codes) for one in wanted])
        codes = np.concatenate([one.codes for one in wanted])
        # Requests are told apart by a multiple of the number of nodes: ascending, so that one search serves all.
        keys = np.concatenate([one.paths for one in wanted]) + (owner * stride)[:, None]
        padded, offsets = fit(len(codes)), np.cumsum([0, *trie.space.codes])
        counts = np.zeros((levels, requests), np.int64)
        for place, one in enumerate(wanted):
            counts[:, place] = one.rows
        rows = tuple(map(fit, counts[:-1].sum(axis=1).tolist()))
        shape = ForestShape(requests, rows, padded, 1 << (max(1, int(counts[:-1].max(initial=1))) - 1).bit_length())
        row, picked = np.full((levels, padded), -1), np.zeros((levels, padded), np.int64)
        row[0, : len(codes)], picked[:, : len(codes)] = owner, codes.T
        request, code, node = np.zeros((3, sum(rows)), np.int64)
        parts = {"request": request, "code": code, "node": node, "row": row.ravel(), "picked": picked.ravel()}
        path, written = np.zeros((len(owner), 0), np.int64), 0
        for level, own in enumerate(rows, 1):
            run = np.concatenate([place * stride + one.prefixes[level - 1] for place, one in enumerate(wanted)])
            first = np.searchsorted(keys[:, level], run)  # of the candidates that have this prefix
            count, here = counts[level - 1], slice(written, written + len(run))
            begin = np.full(requests + 1, own)
            begin[: len(wanted)] = (np.cumsum(count) - count)[: len(wanted)]
            # A node that must run has a parent that must.
            above = path[row[level - 1, first]] if level > 1 else path[:0].reshape(0, 0)
            path = np.zeros((own, level), np.int64)
            path[:, -1] = np.arange(written, written + own)  # padding, too, writes to a row of its own
            path[: len(run), :-1] = above.reshape(len(run), level - 1)
            row[level, : len(codes)] = _place(run, keys[:, level])
            request[here], code[here] = owner[first], codes[first, level - 1] + offsets[level - 1]
            node[here] = run - owner[first] * stride
            node[here.stop : written + own] = trie.nodes_at(level).start  # no other level's node has codes of this one
            parts |= {f"begin {level}": begin, f"count {level}": count, f"path {level}": path.ravel()}
            written += own
        return cls(shape=shape, parts=parts)

    def write(self, out: np.ndarray) -> None:
        """Into int32 (``shape.size``,)."""
        for name, where in self.shape.fields.items():
            out[where] = self.parts[name]


class Scoring:
    """Scores with one decoder and one catalog; arguments as of ``BeamSearch``."""

    def __init__(
        self, decoder: SidDecoder, catalog: DeviceCatalog, sid_tokens: Sequence[torch.Tensor], normalise: Normalise
    ) -> None:
        self.decoder, self.catalog, self.normalise = decoder, catalog, normalise
        self._tokens = torch.cat(list(sid_tokens))

    def score(self, shape: ForestShape, flat: torch.Tensor, reading: Reading) -> torch.Tensor:
        """Log-probabilities float32 (L, n) of the codes of all candidates, 0 where a code is forced; nothing here waits
        for the device.

        Args:
            shape: of the forest.
            flat: int32, what ``Forest.write`` wrote.
            reading: of the prompts.
        """
        at = {name: flat[where] for name, where in shape.fields.items()}
        row, picked = (at[name].view(-1, shape.candidates) for name in ("row", "picked"))
        running = {level: own for level, own in enumerate(shape.rows, 1) if own}
        requests, nodes = (at[name].split(shape.rows) for name in ("request", "node"))
        beams = [
            BeamRows(
                ranges=RowRanges(begin=at[f"begin {level}"], count=at[f"count {level}"]),
                request=requests[level - 1],
                ancestry=at[f"path {level}"].view(own, level),
                table=reading.table,
                length=reading.length,
                widest=shape.widest,
            )
            for level, own in running.items()
        ]
        hidden = {0: reading.hidden}
        if beams:
            states = self.decoder.step(self._tokens[at["code"]], *beams)
            hidden |= zip(running, states.split(list(running.values())), strict=True)
        index = torch.arange(max(len(own) for own in hidden.values()), dtype=torch.int32, device=flat.device)
        root, place = torch.zeros_like(index[: shape.requests]), row.clamp(min=0)
        found: list[torch.Tensor] = []
        for level in range(len(row)):
            if level not in hidden:
                found.append(torch.zeros_like(found[0]))
                continue
            logits, node = self.decoder.level_logits(hidden[level], level), nodes[level - 1] if level else root
            children = self.catalog.children(level)
            normaliser = log_normaliser(logits, index[: len(node)], node, children, self.normalise)
            found.append(logits[place[level], picked[level]] - normaliser[place[level]])
        return torch.where(row >= 0, torch.stack(found), 0.0)


def _place(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Place of each wanted key among ascending ``keys``; -1 where it is not there."""
    if len(keys) == 0:
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)
