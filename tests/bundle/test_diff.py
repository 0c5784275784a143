"""What `genrecall bundle diff` says of bundles that differ in known ways."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.pipeline import RECIPE
from typer.testing import CliRunner

from genrecall.artifacts import write_artifact
from genrecall.bundle.diff import compare, part_of
from genrecall.bundle.overlap import of_lists, overlaps, sample
from genrecall.catalog.store import Catalog
from genrecall.cli.main import app
from genrecall.errors import ArtifactError
from genrecall.recall.generative import GenerativeConfig
from genrecall.recipes import stages


@pytest.fixture(scope="module")
def wider(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same parts under another beam."""
    recipe = replace(RECIPE, generative=GenerativeConfig(beam=3))
    out = tmp_path_factory.mktemp("diff") / "bundle"
    stages.export(Catalog.load(run / "catalog"), sid=run / "sid", model=run / "model", out=out, recipe=recipe)
    return out


def _altered(run: Path, out: Path) -> Path:
    """A bundle with one item gone, one new, one renamed, one moved to another SID."""
    bundle = run / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    with write_artifact(out, kind="bundle", config=manifest["config"], parents=manifest["parents"]) as writer:
        for file in manifest["files"]:
            (writer.path / file).parent.mkdir(parents=True, exist_ok=True)
            (writer.path / file).write_bytes((bundle / file).read_bytes())
        items = pq.read_table(bundle / "items.parquet")
        rows = items.to_pylist()
        rows[0]["item_id"], rows[1]["title"] = "fresh", "another title"
        pq.write_table(pa.Table.from_pylist(rows, schema=items.schema), writer.path / "items.parquet")
        table = pq.read_table(bundle / "sid/table.parquet")
        sids = np.array(table["sid"].to_pylist(), np.int32)
        sids[2, 0] = (sids[2, 0] + 1) % manifest["config"]["spaces"][0][0]
        ids = [row["item_id"] for row in rows]
        flat = pa.FixedSizeListArray.from_arrays(pa.array(sids.reshape(-1), pa.int32()), sids.shape[1])
        pq.write_table(pa.table({"item_id": ids, "sid": flat}), writer.path / "sid/table.parquet")
    return out


def test_items_and_sids_are_told_by_id(run: Path, tmp_path: Path) -> None:
    found = compare(run / "bundle", _altered(run, tmp_path / "b"))
    first, second, third = Catalog.load(run / "catalog").items.ids[:3]
    assert (found.items.added, found.items.removed, found.items.changed) == (["fresh"], [first], [second])
    assert found.sids.changed == [third]
    assert found.sids.common == found.items.before - 1
    changed = {part.name for part in found.parts if not part.same}
    assert changed == {"items", "SID table"}
    assert found.settings == []
    told = found.to_dict(examples=0)
    assert (told["items"]["added_count"], told["items"]["added"]) == (1, [])


def test_settings_and_parts(run: Path, wider: Path) -> None:
    found = compare(run / "bundle", wider)
    assert [(s.name, s.before, s.after) for s in found.settings] == [("generative.beam", 12, 3)]
    assert all(part.same for part in found.parts)
    assert not found.same
    assert {"weights", "tokenizer", "prompt", "quantiser and its normaliser", "channel item_cf"} <= {
        part.name for part in found.parts
    }
    assert sum(part.bytes_after for part in found.parts) == sum(
        file.stat().st_size for file in wider.rglob("*") if file.is_file() and file.name != "manifest.json"
    )
    assert compare(wider, wider).same


def test_every_file_of_a_second_generator_has_its_own_part() -> None:
    assert part_of("model/model.safetensors") == "weights"
    assert part_of("model-1/model.safetensors") == "weights-1"
    assert part_of("sid-2/quantizer.safetensors") == "quantiser and its normaliser-2"
    assert part_of("model-1/metrics.jsonl") == "model-1/metrics.jsonl"


def test_answers_overlap_wholly_with_themselves(run: Path, wider: Path) -> None:
    users = sample(Catalog.load(run / "catalog"), {"repeats": "first", "tie_seed": 0}, 12)
    assert len(users) == 12
    own = overlaps(run / "bundle", run / "bundle", users, k=5, device="cpu")
    assert {(o.mean, o.same_first, o.identical) for o in own.values()} == {(1.0, 1.0, 1.0)}
    # At k = 5 both search with at least 5 beams: narrower ones lose items, the counted channels lose none.
    other = overlaps(run / "bundle", wider, users, k=5, device="cpu")
    assert other["item_cf"].identical == 1.0
    assert set(other) == {"generative", "popularity", "item_cf", "transition"}


def test_overlap_is_of_the_longer_list() -> None:
    found = of_lists([["a", "b"], ["x"], []], [["b", "c"], ["x", "y"], []], 2)
    assert found.mean == pytest.approx((0.5 + 0.5 + 1.0) / 3)
    assert found.same_first == pytest.approx(2 / 3)
    assert found.identical == pytest.approx(1 / 3)


def test_the_command(run: Path, wider: Path, tmp_path: Path) -> None:
    asked = CliRunner().invoke(app, ["bundle", "diff", str(run / "bundle"), str(wider), "--users", "0", "--json"])
    assert json.loads(asked.stdout)["settings"] == [{"name": "generative.beam", "before": 12, "after": 3}]
    told = CliRunner().invoke(app, ["bundle", "diff", str(run / "bundle"), str(wider), "--users", "4"])
    assert "generative.beam" in told.stdout
    assert "Answers to 4 users" in told.stdout
    with pytest.raises(ArtifactError, match="another kind"):
        compare(run / "bundle", run / "catalog")
