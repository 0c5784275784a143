"""What the console is shown: a shop of 10,000 items, some with hostile titles, an experiment and a second bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from genrecall.catalog.store import Catalog, import_catalog
from genrecall.recall.generative import GenerativeConfig
from genrecall.recipes import stages
from genrecall.sid.build import SidConfig, build_sids
from genrecall.sid.rq_kmeans import RqKMeansConfig
from genrecall.text.vectors import Vectors
from tests import pipeline, synthetic
from tests.serve.process import Served, serve

ITEMS = 10_000
HOSTILE = "<img src=x onerror='window.hacked=1'>\"'&lt;script&gt;</title><script>window.hacked=1</script>"
EXPERIMENTS = """
[wide]
salt = "1"
[wide.arms.narrow]
share = 0.5
beam = 8
[wide.arms.wide]
share = 0.5
"""


def build(run: Path) -> Path:
    """Like the pipeline at toy size, with many items that nobody bought, some of whose titles are attacks."""
    source = synthetic.write(run / "source", users=60, items=ITEMS, events=8)
    items = pq.read_table(source / "items.parquet")
    titles = items["title"].to_pylist()
    titles[:8] = [f"{HOSTILE} {n}" for n in range(8)]
    pq.write_table(items.set_column(1, "title", [titles]), source / "items.parquet")
    catalog = import_catalog(
        {name: source / f"{name}.parquet" for name in ("items", "events", "users")}, run / "catalog"
    )
    pipeline.vectors(catalog, run / "vectors")
    sid = SidConfig(levels=3, codes=32, quantizer="rq_kmeans", rq_kmeans=RqKMeansConfig(steps=5))
    recipe = replace(pipeline.RECIPE, sid=sid, train=replace(pipeline.RECIPE.train, epochs=1))
    build_sids(catalog, Vectors.load(run / "vectors"), out=run / "sid", config=sid)
    stages.train_model(catalog, recipe.split.divide(catalog), sid=run / "sid", out=run / "model", recipe=recipe)
    stages.export(catalog, sid=run / "sid", model=run / "model", out=run / "bundle", recipe=recipe)
    other = replace(recipe, generative=GenerativeConfig(beam=6))
    stages.export(catalog, sid=run / "sid", model=run / "model", out=run / "other", recipe=other)
    assert len(Catalog.load(run / "catalog").items) == ITEMS
    return run


@contextlib.contextmanager
def serving(run: Path) -> Iterator[Served]:
    """The first bundle active, the second one staged."""
    file = run / "experiments.toml"
    file.write_text(EXPERIMENTS, encoding="utf-8")
    settings = ("--deadline-ms", "10000", "--experiments", str(file))
    with serve(run / "bundle", run / "state", *settings) as served:
        served.admin("releases/stage", bundle=str(run / "other"))
        yield served
