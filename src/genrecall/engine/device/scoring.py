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
from genrecall.engine.device.batch import Batch, request_of
from genrecall.engine.device.catalog import DeviceCatalog
from genrecall.engine.device.decoder import BeamRows, Reading
from genrecall.engine.device.open import SidDecoder
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


class Scoring:
    """Scores with one decoder and one catalog; arguments as of ``BeamSearch``."""

    def __init__(
        self, decoder: SidDecoder, catalog: DeviceCatalog, sid_tokens: Sequence[torch.Tensor], normalise: Normalise
    ) -> None:
        self.decoder, self.catalog, self.sid_tokens, self.normalise = decoder, catalog, sid_tokens, normalise

    def score(self, batch: Batch, reading: Reading, wanted: Sequence[Candidates]) -> torch.Tensor:
        """Log-probabilities float32 (L, n) of the codes of all candidates, requests in order."""
        places = len(reading.hidden)
        owner = np.repeat(np.arange(len(wanted)), [len(one.codes) for one in wanted])
        codes = np.concatenate([one.codes for one in wanted])
        paths = np.concatenate([one.paths for one in wanted])
        logits = self.decoder.level_logits(reading.hidden, 0)
        row_node, picked = np.zeros(places, np.int64), owner
        ancestry, written, before = batch.widths.new_empty(places, 0), 0, np.zeros(0)
        found = []
        for level in range(len(self.sid_tokens)):
            if level > 0:
                # Requests are told apart by a multiple of the number of nodes, so that one search serves all.
                stride = self.catalog.trie.num_nodes
                keys = np.concatenate([place * stride + one.prefixes[level - 1] for place, one in enumerate(wanted)])
                count = np.array([len(one.prefixes[level - 1]) for one in wanted])
                picked = _place(keys, owner * stride + paths[:, level])
                row_node = keys % stride
                if len(keys):
                    parents = self._parents(keys, stride, before) if level > 1 else keys // stride
                    rows = fit(len(keys))
                    beams, code = self._rows(keys, count, parents, rows, places, written, ancestry, reading)
                    hidden = self.decoder.step(self.sid_tokens[level - 1][code], beams)
                    logits = self.decoder.level_logits(hidden, level)
                    ancestry, written, before = beams.ancestry, written + rows, keys
            found.append(self._level(logits, level, row_node, picked, codes[:, level]))
        return torch.stack(found)

    def _rows(
        self,
        keys: np.ndarray,
        count: np.ndarray,
        parents: np.ndarray,
        rows: int,
        places: int,
        written: int,
        ancestry: torch.Tensor,
        reading: Reading,
    ) -> tuple[BeamRows, torch.Tensor]:
        """Beams for one level's prefixes and the codes they end with."""
        trie, device = self.catalog.trie, ancestry.device
        begin = np.full(places + 1, rows)
        begin[: len(count)] = np.cumsum(count) - count
        counts = np.zeros(places)
        counts[: len(count)] = count
        padding = np.zeros(rows - len(keys))
        sent = _send(
            device, begin, counts, np.concatenate([parents, padding]),
            np.concatenate([trie.child_code[keys % trie.num_nodes - 1], padding]), np.arange(written, written + rows),
        )  # fmt: skip
        ranges = RowRanges(begin=sent[0], count=sent[1])
        beams = BeamRows(
            ranges=ranges,
            request=request_of(ranges.begin, rows),
            ancestry=torch.cat([ancestry[sent[2]], sent[4][:, None]], dim=1),
            table=reading.table,
            length=reading.length,
            widest=int(count.max()),
        )
        return beams, sent[3]

    def _parents(self, keys: np.ndarray, stride: int, before: np.ndarray) -> np.ndarray:
        """Rows of the level before that prefixes extend: a node that must run has a parent that must."""
        nodes = keys % stride
        parent = np.searchsorted(self.catalog.trie.child_begin, nodes - 1, side="right") - 1
        return np.searchsorted(before, keys - nodes + parent)

    def _level(
        self, logits: torch.Tensor, level: int, row_node: np.ndarray, picked: np.ndarray, codes: np.ndarray
    ) -> torch.Tensor:
        """float32 (n,); 0 where the code is forced."""
        if len(row_node) == 0:
            return torch.zeros(len(codes), device=logits.device)
        node, row, code = _send(logits.device, row_node, picked, codes)
        index = torch.arange(len(row_node), dtype=torch.int32, device=logits.device)
        normaliser = log_normaliser(logits, index, node, self.catalog.children(level), self.normalise)
        at = row.clamp(min=0).long()
        return torch.where(row >= 0, logits[at, code.long()] - normaliser[at], 0.0)


def _place(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Place of each wanted key among ascending ``keys``; -1 where it is not there."""
    if len(keys) == 0:
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def _send(device: torch.device, *arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
    """int32 tensors, in one copy."""
    flat = torch.from_numpy(np.concatenate(arrays).astype(np.int32)).to(device)
    return flat.split([len(array) for array in arrays])
