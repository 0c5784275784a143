"""`genrecall refresh`: a bundle from the one in use and what happened since.

    bundle in use + new events ──▶ catalog ──▶ vectors, SIDs (appended) ──▶ models (warm) ──▶ bundle ──▶ gates
                                                                                                 rollout ◀──┘

Every stage is an artifact in ``out``; a killed refresh goes on where it was. Training events of the bundle in use are
training events of the new one, too, so that nothing which judges either of them was learnt by it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrecall.artifacts import MANIFEST, Artifact, copy_artifact, open_artifact
from genrecall.bundle.channels import config_of
from genrecall.bundle.export import BundleConfig, export_bundle
from genrecall.bundle.parts import KIND, RANKER, parts_of
from genrecall.catalog.extend import extend_catalog
from genrecall.catalog.split import Split
from genrecall.catalog.store import Catalog, read_report
from genrecall.errors import ArtifactError, ConfigError
from genrecall.recall.generative import GenerativeConfig
from genrecall.recipes.carry import carried_fusion, refitted_ranker, unseen
from genrecall.recipes.gates import Gate, GateConfig, judge, told
from genrecall.recipes.recipe import SplitConfig
from genrecall.recipes.warm import WarmConfig, go_on
from genrecall.sid.append import append_sids
from genrecall.telemetry import Stages, log
from genrecall.text.embed import extend_vectors, vectors_of
from genrecall.text.precomputed import GIVEN
from genrecall.text.vectors import Vectors

REPORT = "refresh.json"


@dataclass(frozen=True, kw_only=True)
class RefreshConfig:
    """Settings: how models go on, and what they must keep."""

    warm: WarmConfig = field(default_factory=WarmConfig)
    gates: GateConfig = field(default_factory=GateConfig)


@dataclass(frozen=True, kw_only=True)
class News:
    """What came since.

    Attributes:
        events: file of new events; repeats of known ones count once. None: there are none, only items.
        items: file of new items, or new values of known ones.
        users: file of profiles.
        vectors: artifact with vectors of all items, for encoders that genrecall does not know.
        sequence: number of the newest event, where they are a service's log.
    """

    events: Path | None
    items: Path | None = None
    users: Path | None = None
    vectors: Path | None = None
    sequence: int | None = None


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """A new bundle and how it compares.

    Attributes:
        bundle: the new one.
        active: digest of the one in use.
        events, items: how many are new.
        gates: every figure.
        seconds: by stage, of this call.
    """

    bundle: Artifact
    active: str
    events: int
    items: int
    gates: Sequence[Gate]
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "bundle": str(self.bundle.path),
            "digest": self.bundle.digest,
            "active": self.active,
            "new_events": self.events,
            "new_items": self.items,
            "passed": all(gate.passed for gate in self.gates),
            "gates": told(self.gates),
            "seconds": dict(self.seconds),
        }


def refresh(run: Path, out: Path, news: News, config: RefreshConfig) -> Refreshed:
    """All stages up to the gates; nothing in ``run`` changes.

    Args:
        run: directory with ``bundle`` and what it was made of: ``catalog``, ``vectors``, ``sid``, ``model`` (the first
            two may lie in its parent).
        out: directory of the new run, laid out alike, so that the next refresh can start from it.
        news: what came since.
        config: settings.

    Raises:
        ConfigError: there is nothing new, or ``out`` is ``run``.
        ArtifactError: a part is missing, or is not the one that the bundle was made of.
    """
    if out.resolve() == run.resolve():
        raise ConfigError(
            "a refresh must not write over what is in use", seen=str(out), allowed="a directory of its own",
            fix="give another --out",
        )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    watch, active = Stages(), open_artifact(run / "bundle", kind=KIND)
    known = Catalog.load(_part(run, active, "catalog"))
    with watch.stage("catalog"):
        catalog = extend_catalog(known, out / "catalog", events=news.events, items=news.items, users=news.users)
    for found in read_report(out / "catalog").problems:
        log(f"{found.count:,} {found.what}: {found.action}")
    events, items = len(catalog.events) - len(known.events), len(catalog.items) - len(known.items)
    if not events and not items:
        raise ConfigError(
            "there is nothing new to learn from",
            seen=f"{news.events or news.items}: no event that the catalog lacks, on an item that it knows",
            allowed="events after those of the catalog, or new items",
            fix="wait for events; `genrecall data validate` says what a file holds",
        )
    split_config = SplitConfig(**active.manifest.config["split"])
    split, before = split_config.divide(catalog), split_config.divide(known)
    generators = range(len(active.manifest.config["spaces"]))
    with watch.stage("sid"):
        _append(run, out, known, catalog, active, news)
    grown_from = [*_grown_from(run), before.train.digest]
    with watch.stage("train"):
        for number in generators:
            sid, model = parts_of(number)
            go_on(
                _part(run, active, model), catalog, split,
                sid=out / sid, out=out / model, config=config.warm, grown_from=grown_from,
            )  # fmt: skip
    with watch.stage("export"):
        bundle = _export(out, catalog, split, active, len(generators))
        bundle = carried_fusion(active, bundle, catalog, split.train)
    cases = split.valid
    if RANKER in active.manifest.parents:
        with watch.stage("rank"):
            bundle = _ranked(run, out, catalog, split, active, bundle, config.warm.device)
        cases = unseen(cases, out / "ranker")
    with watch.stage("gates"):
        gates = judge(active.path, bundle.path, catalog, cases, config.gates, device=config.warm.device)
    done = Refreshed(
        bundle=bundle, active=active.digest, events=events, items=items, gates=gates, seconds=watch.seconds
    )
    sequence = news.sequence if news.sequence is not None else last_sequence(run)
    report = {**done.to_dict(), "sequence": sequence, "grown_from": grown_from}
    (out / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return done


def bundle_digests(used: Path, new: Path) -> list[str]:
    """Of the bundle in use, and of the new one where an earlier call has made it."""
    found = [open_artifact(used, kind=KIND, verify=False).digest]
    if (new / MANIFEST).is_file():
        found.append(open_artifact(new, kind=KIND, verify=False).digest)
    return found


def last_sequence(run: Path) -> int:
    """Number of the newest event of a service's log that this run has learnt from; 0 where it has of none."""
    return int(_report(run).get("sequence", 0))


def _grown_from(run: Path) -> list[str]:
    return list(_report(run).get("grown_from", []))


def _report(run: Path) -> dict[str, Any]:
    file = run / REPORT
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _part(run: Path, bundle: Artifact, name: str) -> Path:
    """Where a part of the bundle lies, beside it or one level above; refused if it is another one."""
    wanted = bundle.manifest.parents[name]
    for place in (run / name, run.resolve().parent / name):
        try:
            found = open_artifact(place, verify=False)
        except ArtifactError:
            continue
        if found.digest == wanted:
            return place
    raise ArtifactError(
        f"the bundle's {name} is not beside it",
        seen=f"no artifact {wanted} at {run / name}",
        allowed="the run directory that the bundle was exported in",
        fix=f"copy the {name} there, or export the bundle again from what is there",
    )


def _append(run: Path, out: Path, known: Catalog, catalog: Catalog, active: Artifact, news: News) -> None:
    """Vectors of all items, and tables in which every known item keeps its SID."""
    tables = [parts_of(number)[0] for number in range(len(active.manifest.config["spaces"]))]
    vectors = _extended(run, out, known, catalog, news)
    if len(catalog.items) == len(known.items):
        for name in tables:
            copy_artifact(_part(run, active, name), out / name)
        return
    if vectors is None:
        raise ArtifactError(
            "new items need vectors, and those of the known ones are missing",
            seen=f"no vectors in {run}",
            allowed="the artifact that `genrecall embed` wrote, or --vectors for all items",
            fix="run `genrecall embed` on the old catalog, or give --vectors",
        )
    for name in tables:
        append_sids(
            _part(run, active, name),
            catalog.items.ids,
            vectors.matrix,
            out=out / name,
            identity=vectors.identity,
            vectors_digest=vectors.digest,
        )


def _extended(run: Path, out: Path, known: Catalog, catalog: Catalog, news: News) -> Vectors | None:
    """Vectors of all items as their texts are now; None where there were none before."""
    source = next((place for place in (run / "vectors", run.resolve().parent / "vectors") if place.is_dir()), None)
    if news.vectors is not None:
        vectors = vectors_of(news.vectors, catalog)
        copy_artifact(news.vectors, out / "vectors")
        return vectors
    if source is None:
        return None
    before = Vectors.load(source)
    given = before.identity["name"] == GIVEN and len(catalog.items) == len(known.items)
    if given or known.items.table.equals(catalog.items.table):
        return Vectors.load(copy_artifact(source, out / "vectors").path)
    return extend_vectors(source, catalog, known=known, out=out / "vectors")


def _ranked(
    run: Path, out: Path, catalog: Catalog, split: Split, active: Artifact, bundle: Artifact, device: str
) -> Artifact:
    """The new bundle with a ranker fitted like the one in use."""
    used = _part(run, active, RANKER)
    ranker = refitted_ranker(used, bundle.path, catalog, _vectors(out), out, device=device)
    generators = len(active.manifest.config["spaces"])
    ranked = _export(out, catalog, split, active, generators, ranker=ranker.path)
    return carried_fusion(active, ranked, catalog, split.train)


def _vectors(out: Path) -> Vectors | None:
    return Vectors.load(out / "vectors") if (out / "vectors").is_dir() else None


def _export(
    out: Path, catalog: Catalog, split: Split, active: Artifact, generators: int, ranker: Path | None = None
) -> Artifact:
    """The same settings as the bundle in use."""
    config = active.manifest.config
    parts = [parts_of(number) for number in range(generators)]
    return export_bundle(
        catalog,
        split.train,
        sid=[out / sid for sid, _ in parts],
        model=[out / model for _, model in parts],
        out=out / "bundle",
        config=BundleConfig(
            generative=GenerativeConfig(**config["generative"]),
            channels=config_of(config["channels"]),
            split=config["split"],
            remarks=tuple(config["remarks"]),
        ),
        vectors=_vectors(out),
        ranker=ranker,
    )
