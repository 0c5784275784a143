"""Static-shaped selection against sorting all candidates; logits are small integers, so that ties are common."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.kernels.rows import RowRanges
from genrecall.kernels.trie_select import Beams, Children, log_normaliser, trie_select
from tests.kernels.cases import selection_case, to_device, wide_case


def brute_force(case) -> list[list[tuple[int, int, int, float]]]:
    """Per request the best (row, code, node, total), by total and then by SID; returned in SID order."""
    beams, children, node_filter = case["beams"], case["children"], case["node_filter"]
    begin, code_of = children.begin.tolist(), children.code.tolist()
    answer = []
    for request, width in enumerate(case["width"].tolist()):
        first, mask = int(beams.ranges.begin[request]), int(node_filter.row[request])
        candidates = []
        for row in range(first, first + int(beams.ranges.count[request])):
            node, source = int(beams.node[row]), int(beams.logits_row[row])
            edges = range(begin[node], begin[node + 1])
            z = case["logits"][source].tolist() if source >= 0 else [0.0] * case["logits"].shape[1]
            over = [code_of[e] for e in edges] if case["normalise"] == "trie" else range(len(z))
            normaliser = math.log(sum(math.exp(z[c]) for c in over)) if source >= 0 else 0.0
            for edge in edges:
                if mask < 0 or node_filter.allowed[mask, edge + 1]:
                    total = float(beams.score[row]) + z[code_of[edge]] - normaliser
                    candidates.append((row, code_of[edge], edge + 1, total))
        best = sorted(candidates, key=lambda c: (-round(c[3], 4), c[0], c[1]))[:width]
        answer.append(sorted(best))
    return answer


def rows_of(found, request: int) -> list[tuple[int, int, int, float]]:
    first, count = int(found.ranges.begin[request]), int(found.ranges.count[request])
    rows = slice(first, first + count)
    columns = (found.parent, found.code, found.node, found.score)
    return list(zip(*(column[rows].tolist() for column in columns), strict=True))


def check(case, found) -> None:
    live = torch.zeros(case["rows"], dtype=torch.bool)
    children, beams = case["children"], case["beams"]
    for request, expected in enumerate(brute_force(case)):
        ours = rows_of(found, request)
        # Sums that differ in their last bit are ties to the brute force alone, so scores are compared and not rows.
        assert sorted(row[3] for row in ours) == pytest.approx(sorted(row[3] for row in expected), abs=1e-4)
        assert [row[:2] for row in ours] == sorted({row[:2] for row in ours}), "distinct and in SID order"
        for parent, code, node, _ in ours:
            assert children.code[node - 1] == code
            parents_node = int(beams.node[parent])
            assert children.begin[parents_node] <= node - 1 < children.begin[parents_node + 1]
        first = int(case["begin"][request])
        live[first : first + len(ours)] = True
    assert found.broken.tolist() == [0] * len(case["width"])
    padding = ~live
    assert (found.score.cpu()[padding] == -math.inf).all()
    assert not found.parent.cpu()[padding].any()
    assert not found.node.cpu()[padding].any()


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 100_000), st.sampled_from(["trie", "level"]))
def test_reference_equals_sorting_everything(seed, normalise):
    case = selection_case(seed, normalise)
    check(case, trie_select(**case))


@pytest.mark.parametrize("normalise", ["trie", "level"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_sorting_everything(device, seed, normalise):
    case = selection_case(seed, normalise, device=device)
    check(case, trie_select(**case))


@pytest.mark.parametrize("normalise", ["trie", "level"])
@pytest.mark.parametrize("seed", range(4))
def test_requests_too_large_for_one_program(device, seed, normalise, monkeypatch):
    if device == "cuda" or importlib.util.find_spec("triton"):
        from genrecall.kernels.trie_select import triton

        monkeypatch.setattr(triton, "_WHOLE", 8)
        monkeypatch.setattr(triton, "_STEP", 16)
    case = selection_case(seed, normalise, device=device)
    check(case, trie_select(**case))


def root_case(logits: list[float], codes: list[int], width: int, device: str, normalise: str = "trie"):
    def ints(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    edges = len(codes)
    return trie_select(
        torch.tensor([logits], device=device),
        Beams(
            node=ints(0),
            score=torch.zeros(1, device=device),
            logits_row=ints(0),
            ranges=RowRanges(begin=ints(0, 1), count=ints(1)),
        ),
        Children(begin=ints(0, *[edges] * (edges + 1)), code=ints(*codes), most=edges),
        ints(width), ints(0, width), rows=width, most_beams=1, normalise=normalise,
    )  # fmt: skip


def test_ties_at_the_cut_go_to_the_smaller_code(device):
    assert root_case([1.0, 2.0, 2.0, 2.0, 0.0], [0, 1, 2, 3, 4], 2, device).code.tolist() == [1, 2]
    assert root_case([0.0] * 40, list(range(40)), 17, device).code.tolist() == list(range(17))
    assert root_case([0.0] * 3, [0, 2], 9, device).ranges.count.tolist() == [2]


def test_least_likely_children_keep_their_probability(device):
    logits = [500.0, -500.0, 0.0, -501.0, 400.0]
    found = root_case(logits, [1, 3], 2, device)
    assert found.score.tolist() == pytest.approx([-math.log1p(math.exp(-1)), -1 - math.log1p(math.exp(-1))], abs=1e-4)
    assert root_case(logits, [1, 3], 2, device, "level").score.tolist() == [-1000.0, -1001.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_told(device, bad):
    assert root_case([1.0, bad, 2.0], [0, 2], 2, device).broken.tolist() == [0], "no child has that code"
    assert root_case([1.0, bad, 2.0], [0, 1], 2, device).broken.tolist() == [1]
    assert root_case([1.0, bad, 2.0], [0, 2], 2, device, "level").broken.tolist() == [1]


@pytest.mark.parametrize("normalise", ["trie", "level"])
def test_normaliser_is_the_one_of_the_search(device, normalise):
    case = selection_case(3, normalise, device=device)
    beams, ranges = case["beams"], case["beams"].ranges
    first, count = int(ranges.begin[0]), int(ranges.count[0])
    rows = slice(first, first + count)
    found = log_normaliser(case["logits"], beams.logits_row[rows], beams.node[rows], case["children"], normalise)
    begin, code = case["children"].begin.tolist(), case["children"].code.tolist()
    for row, value in zip(range(first, first + count), found.tolist(), strict=True):
        node, source = int(beams.node[row]), int(beams.logits_row[row])
        if source < 0:
            assert value == 0.0
            continue
        z = case["logits"][source].tolist()
        over = code[begin[node] : begin[node + 1]] if normalise == "trie" else range(len(z))
        assert value == pytest.approx(math.log(sum(math.exp(z[c]) for c in over)), abs=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("normalise", ["trie", "level"])
@pytest.mark.parametrize(("codes", "nodes", "most"), [(256, 300, 256), (8192, 40, 8192), (5000, 2048, 9)])
def test_wide_beams_equal_the_reference(codes, nodes, most, normalise):
    """Sizes of the engine. Base scores differ in their last bits, so near the cut a few rows may."""
    case = wide_case(codes, nodes, most, normalise)
    found = trie_select(**{key: to_device(value, "cuda") for key, value in case.items()})
    expected = trie_select(**case)
    assert found.ranges.count.tolist() == expected.ranges.count.tolist()
    for request in range(len(case["width"])):
        ours, theirs = rows_of(found, request), rows_of(expected, request)
        assert [row[:2] for row in ours] == sorted({row[:2] for row in ours})
        best = sorted(row[3] for row in ours), sorted(row[3] for row in theirs)
        assert best[0] == pytest.approx(best[1], abs=2e-5)
        same = {row[:3] for row in ours} & {row[:3] for row in theirs}
        assert len(same) >= len(theirs) - 2
