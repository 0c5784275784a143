"""Joint masked top-W against sorting all candidates; logits are small integers, so that ties are common."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.kernels.trie_topk import code_log_probs, trie_topk

CODES = 5


def random_case(seed: int, normalise: str):
    """A two-level forest of nodes with random children, beams of up to three requests."""
    rng = np.random.default_rng(seed)
    nodes = 6
    children = [np.sort(rng.choice(CODES, size=int(rng.integers(1, CODES + 1)), replace=False)) for _ in range(nodes)]
    counts = np.array([len(codes) for codes in children])
    begin = np.concatenate([[0], np.cumsum(counts)])
    edges = int(begin[-1])
    child_begin = np.concatenate([begin, np.full(edges + 1 - nodes, edges)]) if edges + 1 > nodes else begin
    requests = int(rng.integers(1, 4))
    beams = [np.sort(rng.choice(nodes, size=int(rng.integers(0, nodes)), replace=False)) for _ in range(requests)]
    node = np.concatenate(beams).astype(np.int64)
    request = np.repeat(np.arange(requests), [len(b) for b in beams])
    forced = (counts[node] == 1) & (rng.random(len(node)) < 0.5) & (normalise == "trie")
    logits_row = np.full(len(node), -1)
    logits_row[~forced] = rng.permutation(int((~forced).sum()))
    return {
        "logits": torch.from_numpy(rng.integers(-2, 3, size=(int((~forced).sum()), CODES))).float(),
        "logits_row": torch.from_numpy(logits_row),
        "score": torch.from_numpy(-rng.integers(0, 3, size=len(node))).float(),
        "node": torch.from_numpy(node),
        "request": torch.from_numpy(request),
        "width": torch.from_numpy(rng.integers(1, 9, size=requests)),
        "child_begin": torch.from_numpy(child_begin.astype(np.int64)),
        "child_code": torch.from_numpy(np.concatenate(children).astype(np.int64)),
        "normalise": normalise,
        "allowed": torch.from_numpy(rng.random((2, edges + 1)) < 0.7),
        "allowed_row": torch.from_numpy(rng.integers(-1, 2, size=requests)),
    }


def brute_force(case) -> list[tuple[int, int, int, float]]:
    chosen = []
    begin, code_of = case["child_begin"].tolist(), case["child_code"].tolist()
    for request, width in enumerate(case["width"].tolist()):
        candidates = []
        for row in (case["request"] == request).nonzero()[:, 0].tolist():
            node, source = int(case["node"][row]), int(case["logits_row"][row])
            edges = range(begin[node], begin[node + 1])
            z = case["logits"][source].tolist() if source >= 0 else [0.0] * CODES
            over = [code_of[e] for e in edges] if case["normalise"] == "trie" else range(CODES)
            normaliser = math.log(sum(math.exp(z[c]) for c in over))
            mask = int(case["allowed_row"][request])
            for edge in edges:
                if mask < 0 or case["allowed"][mask, edge + 1]:
                    total = float(case["score"][row]) + z[code_of[edge]] - normaliser
                    candidates.append((row, code_of[edge], edge + 1, total))
        best = sorted(candidates, key=lambda c: (-round(c[3], 4), c[0], c[1]))[:width]
        chosen += sorted(best)
    return chosen


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10_000), st.sampled_from(["trie", "level"]))
def test_survivors_equal_sorting_everything(seed, normalise):
    case = random_case(seed, normalise)
    found, expected = trie_topk(**case), brute_force(case)
    # Sums that differ in their last bit are ties to the brute force alone, so scores are compared and not rows.
    by_request: dict[int, list[float]] = {}
    for row, _, _, total in expected:
        by_request.setdefault(int(case["request"][row]), []).append(total)
    owner = case["request"][found.parent]
    for request in range(len(case["width"])):
        ours = sorted(found.score[owner == request].tolist())
        assert ours == pytest.approx(sorted(by_request.get(request, [])), abs=1e-4)
    keys = list(zip(owner.tolist(), found.parent.tolist(), found.code.tolist(), strict=True))
    assert keys == sorted(set(keys)), "distinct and in SID order"
    for parent, code, node in zip(found.parent.tolist(), found.code.tolist(), found.node.tolist(), strict=True):
        assert case["child_code"][node - 1] == code
        assert case["child_begin"][case["node"][parent]] <= node - 1 < case["child_begin"][case["node"][parent] + 1]


def root_case(logits: list[float], codes: list[int], width: int, normalise: str = "trie"):
    edges = len(codes)
    return trie_topk(
        torch.tensor([logits]), torch.tensor([0]), torch.zeros(1), torch.tensor([0]), torch.tensor([0]),
        torch.tensor([width]), torch.tensor([0] + [edges] * (edges + 1)), torch.tensor(codes), normalise,
    )  # fmt: skip


def test_ties_at_the_cut_go_to_the_smaller_code():
    assert root_case([1.0, 2.0, 2.0, 2.0, 0.0], [0, 1, 2, 3, 4], 2).code.tolist() == [1, 2]


def test_least_likely_children_keep_their_probability():
    found = root_case([500.0, -500.0, 0.0, -501.0, 400.0], [1, 3], 2)
    assert found.score.tolist() == pytest.approx([-math.log1p(math.exp(-1)), -1 - math.log1p(math.exp(-1))], abs=1e-4)
    over_all = root_case([500.0, -500.0, 0.0, -501.0, 400.0], [1, 3], 2, "level")
    assert over_all.score.tolist() == [-1000.0, -1001.0]


@pytest.mark.parametrize("normalise", ["trie", "level"])
def test_teacher_forced_equals_search(normalise):
    logits = [0.3, -1.0, 2.0, 0.1, 0.7]
    found = root_case(logits, [0, 2, 3], 5, normalise)
    forced = code_log_probs(
        torch.tensor([logits] * 3), torch.zeros(3, dtype=torch.int64), found.code, torch.tensor([0, 3, 3, 3, 3]),
        torch.tensor([0, 2, 3]), normalise,
    )  # fmt: skip
    torch.testing.assert_close(forced, found.score)


@pytest.mark.gpu
@pytest.mark.parametrize("normalise", ["trie", "level"])
def test_cuda_equals_cpu(normalise):
    for seed in range(20):
        case = random_case(seed, normalise)
        on_gpu = trie_topk(**{key: x.cuda() if isinstance(x, torch.Tensor) else x for key, x in case.items()})
        torch.testing.assert_close(on_gpu.score.cpu().sort().values, trie_topk(**case).score.sort().values)
