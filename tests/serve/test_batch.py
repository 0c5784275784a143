"""Batches: the online lists, each shard once, and the same bytes whatever was killed."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrecall.bundle.contents import Contents
from genrecall.catalog.items import Items
from genrecall.catalog.store import Catalog
from genrecall.errors import ArtifactError
from genrecall.serve.batch.run import BatchConfig, planned, run_batch
from genrecall.serve.batch.shards import MANIFEST, Shards
from tests.serve.world import serving

CONFIG = BatchConfig(k=5, shard_users=7, batch_users=4)


def _bytes(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}


@pytest.fixture(scope="module")
def clean(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("batch") / "clean"
    assert run_batch(run / "bundle", run / "catalog", out, CONFIG, device="cpu")
    return out


def test_a_batch_holds_what_the_service_answers(run: Path, clean: Path, tmp_path: Path) -> None:
    table = pq.read_table(sorted(clean.glob("*.parquet")))
    assert table.num_rows == 60
    assert (clean / MANIFEST).is_file()
    rows = {row["user_id"]: row for row in table.to_pylist()}

    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            for user in ("u0", "u3", "u17", "u59"):
                answer = await world.recommend(user_id=user, k=5)
                assert rows[user]["item_ids"] == [item["item_id"] for item in answer["items"]]
                assert rows[user]["filled"] == answer["coverage"]["filled"]

    asyncio.run(scenario())


def test_a_second_run_changes_nothing(run: Path, clean: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in clean.glob("*.parquet")}
    assert run_batch(run / "bundle", run / "catalog", clean, CONFIG, device="cpu")
    assert {file.name: file.stat().st_mtime_ns for file in clean.glob("*.parquet")} == before


def test_another_batch_is_refused_in_the_same_place(run: Path, clean: Path) -> None:
    with pytest.raises(ArtifactError, match="another batch"):
        run_batch(run / "bundle", run / "catalog", clean, BatchConfig(k=6, shard_users=7), device="cpu")


def test_a_catalog_of_other_items_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog, contents = Catalog.load(run / "catalog"), Contents.open(run / "bundle")
    ids = pa.array([f"x{item}" for item in catalog.items.ids])
    other = Items(table=catalog.items.table.set_column(0, "item_id", ids))
    with pytest.raises(ArtifactError, match="not of this bundle"):
        planned(contents, replace(catalog, items=other), tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()
    one = Items(table=catalog.items.table.set_column(0, "item_id", pa.array(["x0", *catalog.items.ids[1:]])))
    planned(contents, replace(catalog, items=one), tmp_path / "out", CONFIG)
    assert f"1 of {len(ids)} items are not in the bundle" in capsys.readouterr().err


def test_a_directory_of_others_is_left_alone(run: Path, tmp_path: Path) -> None:
    """The manifest of a batch would stand in place of an artifact's own."""
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, run / "catalog", tmp_path / "notes.txt"):
        before = _bytes(out) if out.is_dir() else out.read_bytes()
        with pytest.raises(ArtifactError, match="is not a batch's"):
            run_batch(run / "bundle", run / "catalog", out, CONFIG, device="cpu")
        assert (_bytes(out) if out.is_dir() else out.read_bytes()) == before
    assert not (run / "catalog/leases").exists()


def test_a_leased_shard_is_left_to_its_holder(tmp_path: Path) -> None:
    plan = {"shards": 3}
    one, other = Shards(tmp_path, plan), Shards(tmp_path, plan)
    working = one.todo()
    assert next(working) == 0
    assert list(other.todo()) == [1, 2]
    working.close()
    assert list(other.todo()) == [0, 1, 2]


_HELPER = """
import sys
from pathlib import Path
from genrecall.serve.batch.run import BatchConfig, run_batch, Work
slow = Work.table
def table(self, rows, label):
    import time
    found = slow(self, rows, label)
    time.sleep(0.15)
    return found
Work.table = table
run, out = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
run_batch(run / "bundle", run / "catalog", out, BatchConfig(k=5, shard_users=7, batch_users=4), device="cpu")
"""


@pytest.mark.slow
def test_killed_processes_leave_the_same_bytes(run: Path, clean: Path, tmp_path: Path) -> None:
    out, rng, kills = tmp_path / "killed", random.Random(0), 0
    while kills < 2:
        helper = subprocess.Popen(
            [sys.executable, "-c", _HELPER, str(run), str(out)], stdout=subprocess.PIPE, text=True
        )
        assert helper.stdout is not None
        assert helper.stdout.readline() == "ready\n"
        goal = kills + 1 + rng.randint(1, 2)
        while helper.poll() is None and len(list(out.glob("*.parquet"))) < goal:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.15)
        os.kill(helper.pid, signal.SIGKILL)
        helper.wait()
        assert not (out / MANIFEST).exists()
        kills += 1
    assert run_batch(run / "bundle", run / "catalog", out, CONFIG, device="cpu")
    assert _bytes(out) == _bytes(clean)
