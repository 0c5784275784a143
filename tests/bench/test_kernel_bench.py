"""The kernel bench, on sizes that a CPU does in a second."""

import json

from typer.testing import CliRunner

from genrecall.bench.kernel_cases import Workload
from genrecall.bench.kernels import KernelBench, measure
from genrecall.cli.main import app

SMALL = Workload(
    requests=2, beam=3, prompt=20, long_prompt=40, width=64, heads=4, kv_heads=2, head_width=16, hidden=96, items=200,
    levels=3, codes=8, page=4,
)  # fmt: skip


def test_every_kernel_is_measured():
    found = measure(KernelBench(workload=SMALL, repeats=3, device="cpu"))
    assert {row["name"] for row in found["kernels"]} == {
        "attend_beams", "attend_prompts", "rms_norm", "rms_norm_fp8", "rotary_store", "swiglu", "swiglu_fp8",
        "fp8_linear", "int8_linear", "level_logits", "trie_select", "node_mask",
    }  # fmt: skip
    for row in found["kernels"]:
        assert row["largest_difference"] == 0, "on a CPU the kernel is the reference"
        assert row["kernel_us"] > 0
        assert row["floor_us"] > 0
    beams = next(row for row in found["kernels"] if row["name"] == "attend_beams")
    assert beams["flop"] == 4 * (2 * 3) * 4 * 16 * (20 + 2)


def test_the_verb_prints_what_was_asked():
    asked = ["bench", "kernels", "--only", "rms", "--beam", "2", "--requests", "1", "--device", "cpu", "--json"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert [row["name"] for row in json.loads(result.output)["kernels"]] == ["rms_norm", "rms_norm_fp8"]
