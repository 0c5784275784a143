"""The kernel bench, on sizes that a CPU does in a second."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from genrecall.bench.kernel_cases import Case, RankerWorkload, Workload, cases
from genrecall.bench.kernels import KernelBench, difference, measure
from genrecall.cli.main import app
from genrecall.errors import ConfigError

SMALL = Workload(
    requests=2, beam=3, prompt=20, long_prompt=40, width=64, heads=4, kv_heads=2, head_width=16, hidden=96, items=200,
    levels=3, codes=8, page=4,
)  # fmt: skip
RANKS = RankerWorkload(requests=2, candidates=30, items=300, state=24, table_rows=270_000)
OF_RANKERS = {
    "cached_rows", "crossed_rows", "history_sums", "rank_network.brought", "rank_network.fill", "rank_network.pool",
    "rank_network.logits",
}  # fmt: skip


def test_every_kernel_is_measured():
    found = measure(KernelBench(workload=SMALL, ranks=RANKS, repeats=3, device="cpu"))
    assert {row["name"] for row in found["kernels"]} == OF_RANKERS | {
        "attend_beams", "attend_prompts", "rms_norm", "rms_norm_fp8", "rotary_store", "swiglu", "swiglu_fp8",
        "fp8_linear", "int8_linear", "level_logits", "trie_select", "node_mask",
    }  # fmt: skip
    for row in found["kernels"]:
        assert row["largest_difference"] == 0, "on a CPU the kernel is the reference"
        assert row["kernel_us"] > 0
        assert row["floor_us"] > 0
    beams = next(row for row in found["kernels"] if row["name"] == "attend_beams")
    assert beams["flop"] == 4 * (2 * 3) * 4 * 16 * (20 + 2)


def test_what_a_ranker_cannot_do_without():
    of = {}
    for case in cases(SMALL, RANKS, torch.device("cpu"), torch.float32, ("cached", "crossed", "history", "rank")):
        of.setdefault(case.name, []).append(case)
    assert set(of) == OF_RANKERS
    pairs = RANKS.requests * RANKS.candidates
    some, all_held = of["cached_rows"]
    assert 0 < some.bus_bytes <= 32 * pairs
    assert all_held.bus_bytes == 0
    assert "100% of them" in all_held.shape
    (crossed,) = of["crossed_rows"]
    assert 20 * pairs + 9 * RANKS.requests < crossed.bytes <= 20 * pairs + 9 * (RANKS.requests + pairs)
    (sums,) = of["history_sums"]
    assert sums.flop == 2 * pairs * (13 + 1)
    assert sums.bytes > (12 + 8 * 2) * pairs
    (brought,) = of["rank_network.brought"]
    assert brought.flop == 2 * RANKS.requests * 17 * RANKS.state
    (logits,) = of["rank_network.logits"]
    width = logits.run.args[0].shape[1]
    assert logits.flop == 2 * pairs * (2 * 2 * width * 16 + width * 64 + 64 * 32 + 32 + width)
    assert logits.bytes > 4 * pairs * width


def test_what_was_missed_stays_missed():
    kernel = next(cases(SMALL, RANKS, torch.device("cpu"), torch.float32, ("cached",)))
    cache = kernel.run.args[2]
    missed = []
    for _ in range(3):
        cache.missed.zero_()
        kernel.run()
        missed.append(int(cache.missed))
    assert missed[0] > 0
    assert len(set(missed)) == 1


def test_a_kernel_that_writes_nothing_is_seen():
    out = torch.zeros(4)
    written = Case(name="any", shape="", run=lambda: out, reference=lambda: out.fill_(2.0), bytes=1)
    assert difference(written) == 2


def test_a_table_that_would_not_stay_on_the_host_is_refused():
    with pytest.raises(ConfigError, match="rows"):
        replace(RANKS, table_rows=1 << 18)


def test_the_verb_prints_what_was_asked():
    asked = ["bench", "kernels", "--only", "rms,swiglu", "--beam", "2", "--requests", "1", "--device", "cpu", "--json"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    names = [row["name"] for row in json.loads(result.output)["kernels"]]
    assert names == ["rms_norm", "rms_norm_fp8", "swiglu", "swiglu_fp8"]
