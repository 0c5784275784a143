"""The quickstart: a real, embedded data set through every stage, on two CPU cores.

Settings come first (`short`, `full`), the run after them. Why these settings: see docs/concepts/quickstart.md.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from genrecall import hardware
from genrecall.artifacts import open_artifact
from genrecall.bundle.load import Recommendations, Recommender
from genrecall.catalog.store import Catalog, import_catalog
from genrecall.eval.costs import Cost
from genrecall.eval.document import Section
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.lock import Final
from genrecall.eval.report import evaluation_report
from genrecall.model.config import ModelConfig, ModelSize
from genrecall.prompt.history import HistoryConfig
from genrecall.recipes import pages, stages
from genrecall.recipes.recipe import Recipe
from genrecall.sid.build import SidConfig, build_sids, is_built
from genrecall.sid.store import StoredSids
from genrecall.telemetry import Stages, log
from genrecall.text.embed import embed_catalog
from genrecall.train.config import TrainConfig
from genrecall.train.distil import DistilConfig

_ARTIFACTS = {"data": "catalog", "embed": "vectors", "sid": "sid", "train": "model"}
USERS = 3
"""So many users' recommendations are shown."""


def short() -> Recipe:
    """Under three minutes on two cores; trains on each user's last events only."""
    return Recipe(
        name="quickstart",
        sid=SidConfig(levels=3, codes=128, quantizer="rq_vae", collaborative_weight=0.5),
        model=ModelConfig(explicit=_sizes(layers=2), window=256),
        history=HistoryConfig(max_items=50, session_gap=True),
        train=TrainConfig(
            epochs=8,
            max_seconds=105,
            max_events_per_user=40,
            reshuffle_ties=True,
            distil=DistilConfig(),
            batch_tokens=2048,
            learning_rate=3e-3,
            weight_decay=0.1,
            dropout=0.0,
            eval_every=4,
        ),
        validation_cases=400,
    )


def full() -> Recipe:
    """Three quarters of an hour on two cores, on all events."""
    return Recipe(
        name="quickstart-full",
        sid=SidConfig(levels=4, codes=64, quantizer="rq_vae", collaborative_weight=0.5),
        model=ModelConfig(explicit=_sizes(layers=4), window=256),
        history=HistoryConfig(max_items=50, session_gap=True),
        train=TrainConfig(
            epochs=28,
            max_seconds=2340,
            overlap=0.0,
            reshuffle_ties=True,
            distil=DistilConfig(),
            optimizer="adamw",
            batch_tokens=5460,
            weight_decay=0.1,
            dropout=0.0,
            eval_every=5,
        ),
    )


def _sizes(layers: int) -> ModelSize:
    return ModelSize(hidden=128, layers=layers, heads=2, kv_heads=2, head_dim=64, ffn=384)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a quickstart leaves.

    Attributes:
        report: the content of ``report.json``; ``summary`` is its main table in Markdown.
        users: user id, history as item ids, profile and answer, for a few test users.
        shop: the bundle, loaded.
        directory: where everything lies.
    """

    report: dict[str, Any]
    users: list[tuple[str, list[str], dict[str, str], Recommendations]]
    shop: Recommender
    directory: Path


def run(recipe: Recipe, directory: Path, *, cases: int | None = None, force: bool = False) -> Outcome:
    """Run all stages into ``directory``; what is finished and current is not done again.

    Args:
        recipe: ``short()``, ``full()`` or one of your own for the same data.
        directory: gets the artifacts, ``report.json`` and ``report.html``.
        cases: ask only so many test cases; None asks all.
        force: do every stage again.
    """
    watch = Stages()
    with watch.stage("data"):
        catalog = embedded_catalog(directory / "catalog", force=force)
    with watch.stage("embed"):
        vectors = embed_catalog(
            catalog, out=directory / "vectors", encoder=recipe.encoder, template=recipe.fields, force=force
        )
    split = recipe.split.divide(catalog)
    with watch.stage("sid"):
        histories = split.train if recipe.sid.collaborative_weight else None
        if force or not is_built(directory / "sid", recipe.sid, catalog, vectors, histories):
            build_sids(catalog, vectors, out=directory / "sid", config=recipe.sid, histories=histories)
    with watch.stage("train"):
        stages.train_model(catalog, split, sid=directory / "sid", out=directory / "model", recipe=recipe, force=force)
    with watch.stage("export"):
        stages.export(
            catalog,
            sid=directory / "sid",
            model=directory / "model",
            out=directory / "bundle",
            recipe=recipe,
            force=force,
        )
        shop = Recommender.load(directory / "bundle", device=recipe.train.device)
    asked = {"bundle": shop.digest, "cases": cases}
    finished = None if force else _finished(directory, asked)
    if finished is None:
        with watch.stage("eval"):
            final = Final(run=directory, purpose=f"genrecall quickstart, recipe {recipe.name}")
            evaluation = stages.evaluate_bundle(shop, catalog, final=final, cases=cases)
    with watch.stage("recommend"):
        users = example_users(shop, catalog)
    seconds = _stage_seconds(directory, watch.seconds)
    if finished is None:
        finished = _report(directory, catalog, shop, evaluation, users, seconds, asked)
    log(f"{directory}: {sum(watch.seconds.values()):.0f} s in this run")
    return Outcome(report=finished, users=users, shop=shop, directory=directory)


def embedded_catalog(out: Path, *, force: bool = False) -> Catalog:
    """Import the data set that is shipped with the package (UCI Online Retail, CC BY 4.0)."""
    with resources.as_file(resources.files("genrecall.recipes") / "online_retail") as folder:
        names = {"items": "items", "events": "interactions", "users": "users"}
        return import_catalog({ours: folder / f"{file}.parquet" for ours, file in names.items()}, out, force=force)


def example_users(
    shop: Recommender, catalog: Catalog, count: int = USERS
) -> list[tuple[str, list[str], dict[str, str], Recommendations]]:
    """Recommendations for a few users, spread over the ids, with histories of a length that can be read."""
    histories = catalog.events.histories(shop.split["repeats"], shop.split["tie_seed"])
    readable = [u for u in range(catalog.events.num_users) if 6 <= histories.lengths[u] <= 12]
    chosen = sorted(readable, key=lambda u: catalog.events.user_ids[u])[:: max(len(readable) // count, 1)][:count]
    found = []
    for user in chosen:
        history = [catalog.items.ids[item] for item in histories.of(user)]
        profile = catalog.profile_of(user)
        answer = shop.recommend(history, times=histories.times_of(user), profile=profile, k=5)
        found.append((catalog.events.user_ids[user], history, profile, answer))
    return found


def _stage_seconds(directory: Path, seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each stage when it was really done: a stage that was found finished keeps its earlier time."""
    done: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):
        done = json.loads((directory / "stages.json").read_text(encoding="utf-8"))
    for name, took in seconds.items():
        artifact = directory / _ARTIFACTS.get(name, "bundle")
        digest = open_artifact(artifact, verify=False).digest
        before = done.get(name, {})
        if before.get("digest") != digest or before["seconds"] < took:
            done[name] = {"digest": digest, "seconds": took}
    (directory / "stages.json").write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    return {name: entry["seconds"] for name, entry in done.items()}


def _finished(directory: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The report of an earlier run, where it answers the same question about the same bundle."""
    try:
        report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    current = {key: report.get(key) for key in asked} == asked and (directory / "report.html").exists()
    return report if current else None


def _report(
    directory: Path,
    catalog: Catalog,
    shop: Recommender,
    evaluation: Evaluation,
    users: list[tuple[str, list[str], dict[str, str], Recommendations]],
    seconds: Mapping[str, float],
    asked: dict[str, Any],
) -> dict[str, Any]:
    stored = StoredSids.load(directory / "sid")
    model = open_artifact(directory / "model", kind="model")
    found = evaluation.to_dict()
    report = {
        **asked,
        "recipe": model.manifest.config["recipe"]["name"],
        "stages": dict(seconds),
        "sid": stored.quality,
        "training": model.manifest.facts,
        "metrics": found["metrics"],
        "invalid_sid_rate": shop.generative.invalid_sid_rate,
        "protocol": found["protocol"],
        "summary": pages.summary(evaluation),
        "hardware": hardware.describe(),
        "evaluation": found,
    }
    extra: list[Section] = [
        pages.users_section(users, catalog.items),
        pages.sid_section(stored, directory / "plots"),
        pages.training_section(model),
        pages.stages_section(seconds),
    ]
    page = evaluation_report(
        evaluation,
        title="genrecall quickstart: UCI Online Retail",
        costs={"generative": Cost.of_model(model.path, model.manifest.facts)},
        extra=extra,
        footer=f"bundle {shop.digest}",
    )
    (directory / "report.md").write_text(page.to_markdown(), encoding="utf-8")
    (directory / "report.html").write_text(page.to_html(), encoding="utf-8")
    # Written last: its presence says that the other two are complete.
    (directory / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    return report
