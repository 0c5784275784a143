"""What came back from a search, request by request: beams in order of score, and what each level kept.

``rank(s) = (−score(s), SID(s))``: rows come in SID order, so a stable sort by score is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.engine.host.request import Answer, LevelTrace, TracedBeam
from genrecall.engine.host.step import Sizes, StepPlan
from genrecall.errors import DataError
from genrecall.index.trie import Trie


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A batch on the host: ``codes`` (M, L), ``score`` (M,), ``count`` (R,), ``broken`` (L, R), ``state`` (R, E)."""

    codes: np.ndarray
    score: np.ndarray
    count: np.ndarray
    broken: np.ndarray
    state: np.ndarray

    @classmethod
    def of(cls, flat: np.ndarray, sizes: Sizes) -> Found:
        """Views of what ``Runner.launch`` returns."""
        rows, levels, places = sizes.rows[-1], len(sizes.rows), sizes.requests
        scores = rows * levels
        counts = scores + rows
        broken = counts + places
        states = broken + levels * places
        return cls(
            codes=flat[:scores].reshape(rows, levels),
            score=flat[scores:counts].view(np.float32),
            count=flat[counts:broken],
            broken=flat[broken:states].reshape(levels, places),
            state=flat[states:].view(np.float32).reshape(places, -1),
        )

    def answers(
        self, plan: StepPlan, asked: Sequence[int], rows: Sequence[tuple[int, ...]]
    ) -> list[Answer | DataError]:
        """In the order of the seats; ``asked`` is how many SIDs each wanted, ``rows`` what its job held."""
        answers: list[Answer | DataError] = []
        counts, begin = self.count.tolist(), 0
        broken = any(self.broken.ravel().tolist())
        for place, (seat, wanted, held) in enumerate(zip(plan.seats, asked, rows, strict=True)):
            own = slice(begin, begin + counts[place])
            begin += seat.rows[-1]
            score = self.score[own]
            order = (-score).argsort(kind="stable")
            levels = np.flatnonzero(self.broken[:, place]).tolist() if broken else []
            answer = Answer(
                # By columns: a list of tuples in half the time that rows take.
                sids=list(zip(*self.codes[own].take(order, axis=0).T.tolist(), strict=True)),
                scores=score.take(order).tolist(),
                short=counts[place] < wanted,
                narrowed=seat.rows != held,
                beam=seat.rows[-1],
            )
            answers.append(not_finite(levels[0]) if levels else answer)
        return answers


def not_finite(level: int) -> DataError:
    """The refusal of a model that computes nonsense, which would lose beams without a word."""
    return DataError(
        "the model computes values that are not finite",
        seen=f"NaN or infinity in the logits of level {level}",
        allowed="finite numbers",
        fix="check the checkpoint; with dtype float16 try bfloat16 or float32",
    )


def trace(frontiers: Sequence[Sequence[np.ndarray]], seat: int, trie: Trie) -> tuple[LevelTrace, ...]:
    """What one request kept at each level; ``frontiers`` as ``Runner`` copies them."""
    levels = []
    for level, (begin, count, node, score, codes, _) in enumerate(frontiers):
        rows = np.arange(begin[seat], begin[seat] + count[seat])
        children = trie.num_children[node]
        kept = children
        if level + 1 < len(frontiers):
            after, found, _, _, _, parent = frontiers[level + 1]
            kept = np.bincount(parent[after[seat] : after[seat] + found[seat]], minlength=len(node))
        beams = tuple(
            TracedBeam(
                prefix=tuple(codes[row].tolist()),
                score=float(score[row]),
                children=int(children[row]),
                pruned=int(children[row] - kept[row]),
            )
            for row in rows[np.argsort(-score[rows], kind="stable")]
        )
        levels.append(LevelTrace(level=level, beams=beams))
    return tuple(levels)
