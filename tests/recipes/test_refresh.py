"""A refresh keeps every SID, learns from what is new, and refuses what is worse."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from genrecall.artifacts import Artifact, open_artifact
from genrecall.bundle.channels import config_of, load_fusion
from genrecall.bundle.contents import Contents
from genrecall.bundle.export import BundleConfig, export_bundle
from genrecall.bundle.parts import RANKER
from genrecall.catalog.store import Catalog
from genrecall.cli.main import app
from genrecall.errors import ArtifactError, ConfigError
from genrecall.model.trunk import TrunkConfig
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.rank.fit import FitConfig
from genrecall.rank.model import NetworkConfig
from genrecall.recall.fusion import FusionFit
from genrecall.recall.generative import GenerativeConfig
from genrecall.recipes.carry import carried_fusion
from genrecall.recipes.fusing import fuse
from genrecall.recipes.gates import GateConfig, jensen_shannon, judge, require_passed
from genrecall.recipes.rank_lists import Shop
from genrecall.recipes.ranking import RankRecipe, train_ranker
from genrecall.recipes.recipe import SplitConfig
from genrecall.recipes.refresh import REPORT, News, RefreshConfig, Refreshed, refresh
from genrecall.recipes.warm import WarmConfig
from genrecall.serve.schema import Event
from genrecall.serve.state.export import export_log
from genrecall.serve.state.store import UserState
from genrecall.sid.table import SidTable
from genrecall.text.vectors import Vectors, write_vectors
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.trunk_fit import train_trunk

CONFIG = RefreshConfig(warm=WarmConfig(epochs=1, device="cpu"), gates=GateConfig(recall_drop=0.5))

SPLIT = SplitConfig()


@pytest.fixture(scope="module")
def news(run: Path, tmp_path_factory: pytest.TempPathFactory) -> News:
    """Two later events of every user, one of them on an item that nobody knew."""
    place, late = tmp_path_factory.mktemp("news"), 1_700_000_000
    rows = [(f"u{u}", f"i{u % 8 + 8 * s}", late + 10 * u + s) for u in range(60) for s in (1, 2)]
    rows += [("u0", "fresh", late), ("stranger", "fresh", late), ("u1", "nowhere", late)]
    users, items, times = zip(*rows, strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), place / "events.parquet")
    pq.write_table(pa.table({"item_id": ["fresh"], "title": ["violet candle"]}), place / "items.parquet")
    known = Vectors.load(run / "vectors")
    matrix = np.concatenate([known.matrix, known.matrix[:1] + 0.1]).astype(np.float32)
    write_vectors(
        place / "vectors", [*known.item_ids, "fresh"], matrix, config={"encoder": known.identity}, parents={}, facts={}
    )
    return News(events=place / "events.parquet", items=place / "items.parquet", vectors=place / "vectors")


@pytest.fixture(scope="module")
def done(run: Path, news: News, tmp_path_factory: pytest.TempPathFactory) -> Refreshed:
    return refresh(run, tmp_path_factory.mktemp("refreshed") / "run", news, CONFIG)


def test_what_is_left_out_is_told(run: Path, news: News, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = Catalog.load(run / "catalog").items
    times = [3_000_000_000, 1_700_000_000]
    rows = {"user_id": ["u1", "u1"], "item_id": [items.ids[0], "nowhere"], "timestamp": times}
    pq.write_table(pa.table(rows), tmp_path / "odd.parquet")
    with pytest.raises(ConfigError, match="nothing new"):
        refresh(run, tmp_path / "out", News(events=tmp_path / "odd.parquet"), CONFIG)
    told = capsys.readouterr().err
    assert "1 events more than a day in the future: left out" in told
    assert "1 events on items that are not in the items file: left out" in told


def test_a_service_without_events_may_bring_items(run: Path, news: News, tmp_path: Path) -> None:
    UserState(tmp_path / "state").close()
    arguments = ["refresh", str(run), "--out", str(tmp_path / "out"), "--state", str(tmp_path / "state"),
                 "--no-release", "--items", str(news.items), "--vectors", str(news.vectors), "--device", "cpu",
                 "--epochs", "0.1", "--recall-drop", "1", "--json"]  # fmt: skip
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["new_items"] == 1


def test_known_items_keep_their_sids_and_new_ones_get_one(run: Path, done: Refreshed) -> None:
    before, after = Contents.open(run / "bundle"), Contents.open(done.bundle.path)
    assert after.items.ids == [*before.items.ids, "fresh"]
    np.testing.assert_array_equal(after.table.sids[:-1], before.table.sids)
    assert (done.events, done.items) == (122, 1)
    assert after.channels["popularity"].counts.sum() > before.channels["popularity"].counts.sum()  # type: ignore[union-attr]
    weights = [path / "model/model.safetensors" for path in (before.path, after.path)]
    assert weights[0].read_bytes() != weights[1].read_bytes()


def test_every_gate_has_a_figure(done: Refreshed) -> None:
    told = json.loads((done.bundle.path.parent / REPORT).read_text())
    assert {gate["name"].split(",")[0] for gate in told["gates"]} == {
        "recall@10", "fill@10", "overlap@10 with the active", "drift of what is shown", "known items whose SID changed",
    }  # fmt: skip
    assert all(np.isfinite(gate["after"]) and gate["limit"] for gate in told["gates"])
    assert told["passed"] == all(gate["passed"] for gate in told["gates"])


def test_it_resumes_and_goes_on(run: Path, news: News, done: Refreshed, tmp_path: Path) -> None:
    out = done.bundle.path.parent
    stamps = {name: (out / name / "manifest.json").stat().st_mtime_ns for name in ("catalog", "model", "bundle")}
    again = refresh(run, out, news, CONFIG)
    assert again.bundle.digest == done.bundle.digest
    assert stamps == {name: (out / name / "manifest.json").stat().st_mtime_ns for name in stamps}
    later = pa.table({"user_id": ["u3", "u3"], "item_id": ["i1", "fresh"], "timestamp": [1_710_000_000] * 2})
    pq.write_table(later, tmp_path / "later.parquet")
    second = refresh(out, tmp_path / "second", News(events=tmp_path / "later.parquet"), CONFIG)
    assert (second.events, second.items, second.active) == (2, 0, done.bundle.digest)
    grown = json.loads((tmp_path / "second" / REPORT).read_text())["grown_from"]
    assert len(grown) == len(set(grown)) == 2


def test_what_cannot_be_refreshed_is_refused(run: Path, news: News, done: Refreshed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="write over"):
        refresh(run, run, news, CONFIG)
    with pytest.raises(ConfigError, match="nothing new"):
        refresh(done.bundle.path.parent, tmp_path / "a", news, CONFIG)
    with pytest.raises(ArtifactError, match="vectors belong to another catalog"):
        refresh(run, tmp_path / "b", replace(news, vectors=run / "vectors"), CONFIG)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "bundle").symlink_to(run / "bundle")
    with pytest.raises(ArtifactError, match="is not beside it"):
        refresh(tmp_path / "c", tmp_path / "d", news, CONFIG)
    told = CliRunner().invoke(app, ["refresh", str(run), "--out", str(tmp_path / "e")])
    assert isinstance(told.exception, ConfigError)
    assert "what happened since" in told.exception.what


def test_a_worse_bundle_does_not_pass(run: Path, done: Refreshed, tmp_path: Path) -> None:
    """The refreshed model under a beam of one: its lists are short, filled up, and miss."""
    catalog, home = Catalog.load(done.bundle.path.parent / "catalog"), done.bundle.path.parent
    config = done.bundle.manifest.config
    split = SplitConfig(**config["split"]).divide(catalog)
    worse = export_bundle(
        catalog, split.train.select(np.zeros(len(split.train.items), bool)), sid=home / "sid", model=home / "model",
        out=tmp_path / "worse",
        config=BundleConfig(
            generative=GenerativeConfig(beam=1, items_per_sid=1), channels=config_of(config["channels"]),
            split=config["split"],
        ),
    )  # fmt: skip
    gates = judge(done.bundle.path, worse.path, catalog, split.valid, GateConfig(recall_drop=0.01), device="cpu")
    with pytest.raises(ConfigError, match="did not pass: recall@10"):
        require_passed(gates, worse.path)
    same = judge(done.bundle.path, done.bundle.path, catalog, split.valid, GateConfig(), device="cpu")
    require_passed(same, done.bundle.path)
    assert [gate.after for gate in same[3:]] == [1.0, 0.0, 0.0]


def test_divergence_is_zero_of_equals_and_one_bit_of_strangers() -> None:
    assert jensen_shannon(np.array([3, 1]), np.array([6, 2])) == pytest.approx(0.0)
    assert jensen_shannon(np.array([1, 0]), np.array([0, 5])) == pytest.approx(1.0)
    assert jensen_shannon(np.array([1]), np.array([1, 1])) == pytest.approx(0.3113, abs=1e-4)


def test_the_log_of_a_service_becomes_a_file(tmp_path: Path) -> None:
    state = UserState(tmp_path / "state")
    state.commit([[Event(user_id="a", item_id="x", timestamp=5), Event(user_id="b", event="query", query="red")]])
    state.commit([[Event(user_id="a", item_id="y", event="order", timestamp=7)]])
    state.close()
    assert export_log(tmp_path / "state", tmp_path / "log.parquet", after=1) == (2, 3)
    rows: list[dict[str, Any]] = pq.read_table(tmp_path / "log.parquet").to_pylist()
    assert [(row["user_id"], row["item_id"], row["event"], row["query"]) for row in rows] == [
        ("b", None, "query", "red"), ("a", "y", "order", None),
    ]  # fmt: skip


@pytest.mark.slow
def test_an_item_trunk_is_refreshed_too(run: Path, news: News, tmp_path: Path) -> None:
    catalog, table, home = Catalog.load(run / "catalog"), SidTable.load(run / "sid"), tmp_path / "trunk"
    split = SPLIT.divide(catalog)
    prompt = ItemPrompt.learn(len(catalog.items), table.space, [{"country": "France"}], window=12, sessions=False)
    sizes = TrunkConfig(width=32, layers=1, depth_layers=1, heads=2, window=12)
    train_trunk(
        table, split.train, out=home / "model", model=sizes,
        train=SequenceConfig(epochs=3, window=12, batch_tokens=256, device="cpu"), prompt=prompt,
        profile_of=catalog.profile_of, recipe={"name": "t", "split": asdict(SPLIT)},
        parents={"catalog": catalog.digest, "sid": table.digest},
    )  # fmt: skip
    for name in ("catalog", "vectors", "sid"):
        (home / name).symlink_to(run / name)
    export_bundle(
        catalog, split.train, sid=home / "sid", model=home / "model", out=home / "bundle",
        config=BundleConfig(split=asdict(SPLIT)),
    )  # fmt: skip
    done = refresh(home, tmp_path / "out", news, CONFIG)
    assert (done.events, done.items) == (122, 1)
    assert open_artifact(tmp_path / "out" / "model").manifest.parents["start"].startswith("sha256:")


def test_fusion_and_ranker_come_along(run: Path, news: News, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    for part in ("catalog", "vectors", "sid", "model"):
        (used / part).symlink_to(run / part)
    catalog = Catalog.load(run / "catalog")
    fused = fuse(run / "bundle", catalog, tmp_path / "fused", config=FusionFit(methods=("weighted",), device="cpu"))
    recipe = RankRecipe(
        candidates=12, cases=30, warm_events=0, vectors=4, network=NetworkConfig(deep=(8,)),
        fit=FitConfig(epochs=1, device="cpu"),
    )  # fmt: skip
    shop = Shop.open(fused.bundle.path, catalog, device="cpu")
    ranker = train_ranker(shop, Vectors.load(run / "vectors"), recipe, used / "ranker", used / "rank-lists")
    ranked = _with_ranker(fused.bundle, run, ranker.path, used / "bundle")
    carried = carried_fusion(fused.bundle, ranked, catalog, shop.split.train)
    assert RANKER in carried.manifest.parents
    new = refresh(used, tmp_path / "new", news, CONFIG)
    before, after = load_fusion(carried.path / "channels"), load_fusion(new.bundle.path / "channels")
    assert before is not None
    assert after is not None
    assert (after.config, after.weights.tolist()) == (before.config, before.weights.tolist())
    assert len(after.popularity) == len(before.popularity) + 1
    assert new.bundle.manifest.facts["fusion"]["taken over from"] == carried.digest
    fresh = open_artifact(tmp_path / "new" / "ranker")
    assert new.bundle.manifest.parents[RANKER] == fresh.digest != ranker.digest
    assert fresh.manifest.config["recipe"]["candidates"] == 12
    shop = Shop.open(new.bundle.path, Catalog.load(tmp_path / "new" / "catalog"), device="cpu")
    assert shop.bundle.ranker is not None


def _with_ranker(old: Artifact, run: Path, ranker: Path, out: Path) -> Artifact:
    catalog, config = Catalog.load(run / "catalog"), old.manifest.config
    return export_bundle(
        catalog, SplitConfig(**config["split"]).divide(catalog).train, sid=run / "sid", model=run / "model", out=out,
        config=BundleConfig(
            generative=GenerativeConfig(**config["generative"]), channels=config_of(config["channels"]),
            split=config["split"],
        ),
        ranker=ranker,
    )  # fmt: skip
