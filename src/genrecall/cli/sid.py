"""`genrecall sid`: semantic IDs from item vectors: build, look at, add items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrecall.cli import sid_compare
from genrecall.cli.options import (
    RUN,
    AsJson,
    CatalogPath,
    Device,
    Force,
    Repeats,
    Run,
    SidPath,
    SplitRule,
    TieSeed,
    split_config,
)  # fmt: skip

if TYPE_CHECKING:
    from genrecall.sid.store import StoredSids

app = typer.Typer(help="Build, compare and inspect semantic IDs, and append items.", no_args_is_help=True)

VectorsPath = Annotated[Path | None, typer.Option("--vectors", help="Vectors artifact. Default: RUN/vectors.")]
BehaviourPath = Annotated[
    Path | None,
    typer.Option(help="Item matrix fitted on the training events, .npy or .safetensors. Default: our own (PPMI-SVD)."),
]
app.command("compare")(sid_compare.command)


@app.command()
def build(
    run: Run = RUN,
    levels: Annotated[int, typer.Option(help="L: codes in a SID.")] = 4,
    codes: Annotated[int, typer.Option(help="C: codes to choose from at each level.")] = 256,
    quantizer: Annotated[str, typer.Option(help="rq_vae, rq_kmeans, fsq or pq.")] = "rq_vae",
    collisions: Annotated[str, typer.Option(help="reassign, sinkhorn, extra_level or keep.")] = "reassign",
    collaborative_weight: Annotated[
        float, typer.Option(help="Share of training behaviour in the vectors: 0 (text alone) to 1.")
    ] = 0.0,
    alignment_weight: Annotated[
        float, typer.Option(help="rq_vae: of the contrastive loss that teaches the codes behaviour; try 1.")
    ] = 0.0,
    behaviour_vectors: BehaviourPath = None,
    split: SplitRule = "leave_one_out",
    repeats: Repeats = "first",
    tie_seed: TieSeed = 0,
    latent: Annotated[int | None, typer.Option(help="rq_vae: width that is quantised.")] = None,
    epochs: Annotated[int | None, typer.Option(help="rq_vae: passes over the items.")] = None,
    steps: Annotated[int | None, typer.Option(help="rq_kmeans: most Lloyd steps a level.")] = None,
    balance: Annotated[
        float | None, typer.Option(help="rq_kmeans: largest load of a code over the mean load, such as 1.5.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Device = "auto",
    catalog: CatalogPath = None,
    vectors: VectorsPath = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: RUN/sid.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Give every item of the catalog its semantic ID.

    With --collaborative-weight or --alignment-weight, --split, --repeats and --tie-seed say which events may be learnt
    from: those that the model will train on. --behaviour-vectors must have been fitted on just these.

    Example: genrecall sid build --run runs/shop --levels 4 --codes 256 --collaborative-weight 0.5

    Example: torchrun --nproc-per-node 4 -m genrecall sid build -r runs/shop --quantizer rq_kmeans
    """
    from genrecall import processes, telemetry
    from genrecall.catalog.store import Catalog
    from genrecall.sid.behaviour import Behaviour
    from genrecall.sid.build import build_sids, is_built
    from genrecall.sid.config import SidConfig
    from genrecall.sid.rq_kmeans import RqKMeansConfig
    from genrecall.sid.rq_vae import RqVaeConfig
    from genrecall.sid.store import StoredSids
    from genrecall.telemetry import log
    from genrecall.text.embed import vectors_of

    telemetry.console.quiet = not processes.is_main()
    vae = _given(latent=latent, epochs=epochs, alignment_weight=alignment_weight)
    config = SidConfig(
        levels=levels, codes=codes, quantizer=quantizer, collisions=collisions,  # type: ignore[arg-type]
        rq_vae=RqVaeConfig(**vae), rq_kmeans=RqKMeansConfig(**_given(steps=steps, balance=balance)),
        collaborative_weight=collaborative_weight, seed=seed,
    ).on(device)  # fmt: skip
    target = out or run / "sid"
    loaded = Catalog.load(catalog or run / "catalog")
    item_vectors = vectors_of(vectors or run / "vectors", loaded)
    histories = split_config(split, repeats, tie_seed).divide(loaded).train if config.needs_behaviour else None
    behaviour = Behaviour.load(behaviour_vectors) if behaviour_vectors else None
    if not force:
        _require_not_appended(target)
    if not force and is_built(target, config, loaded, item_vectors, histories, behaviour):
        log(f"{target} is current; --force builds it again")
    else:
        build_sids(loaded, item_vectors, out=target, config=config, histories=histories, behaviour=behaviour)
    if not processes.is_main():
        return
    stored = StoredSids.load(target)
    if as_json:
        _print_json({"path": str(target), "digest": stored.table.digest, **stored.quality})
    else:
        print(f"sid  {_summary(stored)}  {target}  {stored.table.digest}")


@app.command()
def inspect(
    run: Run = RUN,
    item: Annotated[str | None, typer.Option(help="Show one item: its SID and its neighbours.")] = None,
    neighbours: Annotated[int, typer.Option(help="How many neighbours of the item.")] = 8,
    plots: Annotated[Path | None, typer.Option(help="Directory to draw PNG plots into.")] = None,
    sid: SidPath = None,
    catalog: CatalogPath = None,
    vectors: VectorsPath = None,
    as_json: AsJson = False,
) -> None:
    """Show how healthy the SIDs are, or one item among its neighbours.

    Example: genrecall sid inspect --run runs/shop --plots runs/shop/plots
    """
    from genrecall.sid.plots import draw
    from genrecall.sid.store import StoredSids
    from genrecall.telemetry import log

    stored = StoredSids.load(sid or run / "sid")
    for file in draw(stored.quality, plots) if plots else []:
        log(f"wrote {file}")
    if item is not None:
        found = _one_item(stored, item, neighbours, catalog or run / "catalog", vectors or run / "vectors")
        if as_json:
            _print_json(found)
        else:
            _show_item(found)
    elif as_json:
        _print_json({"digest": stored.table.digest, "config": stored.config, **stored.quality})
    else:
        _show_quality(stored)


@app.command()
def append(
    run: Run = RUN,
    sid: SidPath = None,
    vectors: VectorsPath = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: RUN/sid, replaced in one step.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give SIDs to the items that have vectors and no SID yet; every existing SID stays.

    Example: genrecall sid append --run runs/shop
    """
    from genrecall.catalog.store import Catalog
    from genrecall.sid.append import append_sids
    from genrecall.sid.table import SidTable
    from genrecall.text.embed import vectors_of
    from genrecall.text.vectors import Vectors

    source, target = sid or run / "sid", out or run / "sid"
    before = SidTable.load(source)
    # Without a catalog, as where vectors came from elsewhere, they say which items there are.
    if vectors is None and (run / "catalog").is_dir():
        new = vectors_of(run / "vectors", Catalog.load(run / "catalog"))
    else:
        new = Vectors.load(vectors or run / "vectors")
    table = append_sids(source, new.item_ids, new.matrix, out=target, identity=new.identity, vectors_digest=new.digest)
    known = set(before.item_ids)
    added = {name: table.written(row) for row, name in enumerate(table.item_ids) if name not in known}
    if as_json:
        _print_json({"path": str(target), "digest": table.digest, "items": len(table.item_ids), "appended": added})
        return
    print(f"sid  {len(added):,} items appended to {len(known):,}  {target}  {table.digest}")
    for name, written in list(added.items())[:10]:
        print(f"  {name}  {written}")


def _require_not_appended(target: Path) -> None:
    """Building again would give items that live under published SIDs other ones."""
    from genrecall.artifacts import MANIFEST, open_artifact
    from genrecall.errors import ConfigError

    if not (target / MANIFEST).exists():
        return
    older = open_artifact(target, kind="sid", verify=False).manifest.config.get("descends_from", [])
    if older:
        raise ConfigError(
            "items were appended to this SID table, and building it again would change SIDs that are in use",
            seen=f"{target}, appended to {len(older)} times",
            allowed="another --out, or --force",
            fix="run `genrecall sid append` for further items; --force gives every item a new SID",
        )


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def _summary(stored: StoredSids) -> str:
    quality = stored.quality
    shape = " x ".join(map(str, stored.table.space.codes))
    rate = quality["collision_rate"]
    return (
        f"{len(stored.table.item_ids):,} items  {shape}  collisions {rate['before']:.1%} → {rate['after']:.1%}  "
        f"unexplained {quality['reconstruction_error']['after']:.2f}"
    )


def _show_quality(stored: StoredSids) -> None:
    from rich.console import Console
    from rich.table import Table

    console, quality = Console(), stored.quality
    console.print(f"{_summary(stored)}  {stored.table.digest}", highlight=False)
    levels = Table("level", "codes", "used", "dead", "perplexity", "prefixes", "prefix bits", "forced items",
                   title="Levels (forced: items without a choice at this level)")  # fmt: skip
    for number, use in enumerate(quality["levels"]):
        levels.add_row(
            str(number), str(use["codes"]), str(use["used"]), str(use["dead"]), f"{use['perplexity']:.1f}",
            f"{use['prefixes']:,}", f"{use['prefix_entropy_bits']:.2f}", f"{use['forced_items']:.1%}",
        )  # fmt: skip
    console.print(levels)
    figures = Table("figure", "before resolving", "after", title=f"Collisions: {stored.config['collisions']}")
    rate, owners, error = quality["collision_rate"], quality["items_per_sid"], quality["reconstruction_error"]
    figures.add_row("items that share their SID", f"{rate['before']:.2%}", f"{rate['after']:.2%}")
    figures.add_row("items a SID, mean", f"{owners['before']['mean']:.3f}", f"{owners['after']['mean']:.3f}")
    figures.add_row("items a SID, most", str(owners["before"]["max"]), str(owners["after"]["max"]))
    figures.add_row("unexplained variance", f"{error['before']:.3f}", f"{error['after']:.3f}")
    figures.add_row("items moved", "", f"{quality['moved']:.2%}")
    console.print(figures)
    near = quality["neighbours"]
    console.print(
        f"Of the {near['k']} nearest items by vector, {near['overlap']:.1%} are nearest by SID prefix too "
        f"(chance {near['chance']:.2%}; {near['queries']} items asked)."
    )
    if quality["clusters"]:
        clusters = Table("code", "items", "most typical titles", title="Largest codes of level 0")
        for cluster in quality["clusters"]:
            written = stored.table.space.token(0, cluster["code"])
            clusters.add_row(written, str(cluster["items"]), " · ".join(cluster["titles"]))
        console.print(clusters)
    for note in quality.get("appended", []):
        console.print(f"appended later: {note['items']} items, {note['moved']} moved")
    for line in quality["alarms"]:
        console.print(f"[bold red]alarm:[/] {line}")


def _one_item(stored: StoredSids, item: str, count: int, catalog: Path, vectors: Path) -> dict[str, Any]:
    from genrecall.catalog.store import Catalog
    from genrecall.errors import DataError
    from genrecall.sid.neighbours import nearest_items, nearest_sids
    from genrecall.text.embed import vectors_of

    table = stored.table
    if item not in table.item_ids:
        raise DataError(
            "this item has no SID",
            seen=item,
            allowed=f"one of {len(table.item_ids)} items, such as {table.item_ids[0]}",
            fix="correct the id, or run `genrecall sid append` for a new item",
        )
    row = table.item_ids.index(item)
    loaded = Catalog.load(catalog)
    table.require_items(loaded.items.ids)
    inputs = stored.inputs(vectors_of(vectors, loaded).matrix)

    def line(index: int) -> dict[str, Any]:
        return {"item_id": table.item_ids[index], "title": loaded.items.titles[index], "sid": table.written(index)}

    by_vector = nearest_items(inputs, stored.quantizer.normaliser, row, count)
    return {
        **line(row),
        "by_sid": [line(i) | {"shared_levels": shared} for i, shared in nearest_sids(table.sids, row, count) if shared],
        "by_vector": [line(i) | {"cosine": round(cosine, 4)} for i, cosine in by_vector],
    }


def _show_item(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"{found['item_id']}  {found['title']}  {found['sid']}", highlight=False, markup=False)
    for key, figure, title in (
        ("by_sid", "shared_levels", "Neighbours by SID"), ("by_vector", "cosine", "Neighbours by vector"),
    ):  # fmt: skip
        table = Table("item", "title", "SID", figure.replace("_", " "), title=title)
        for line in found[key]:
            table.add_row(line["item_id"], line["title"], line["sid"], str(line[figure]))
        console.print(table)
