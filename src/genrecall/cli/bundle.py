"""`genrecall export`, `genrecall load` and `genrecall bundle diff`: make a bundle; check one; compare two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrecall.cli.options import RUN, AsJson, CatalogPath, Device, Force, ModelPath, Run, SidPath

if TYPE_CHECKING:
    from genrecall.bundle.diff import Difference

app = typer.Typer(help="Look at bundles.", no_args_is_help=True)


def export(
    run: Run = RUN,
    beam: Annotated[int, typer.Option(help="Beam width of the search that is shipped.")] = 50,
    items_per_sid: Annotated[int | None, typer.Option(help="At most so many items of one SID in a list.")] = None,
    item_cf: Annotated[str, typer.Option(help="Similarity of the item-CF channel: cosine or swing.")] = "cosine",
    transition: Annotated[
        str, typer.Option(help="Transition counts: directed, undirected, or auto by the training events.")
    ] = "auto",
    window: Annotated[
        int | None, typer.Option(help="Largest distance of a counted transition; not with auto. Default: 5.")
    ] = None,
    decay: Annotated[
        float | None, typer.Option(help="Weight of a history item one step older; not with auto. Default: 0.5.")
    ] = None,
    segment: Annotated[
        str | None, typer.Option(help="Profile column by which popularity is counted, too: the first fallback.")
    ] = None,
    two_tower: Annotated[
        float | None, typer.Option(min=0.1, help="Train a two-tower channel for so many epochs. Default: none.")
    ] = None,
    index: Annotated[str, typer.Option(help="Of the two towers' items: exact, hnsw, auto by their number.")] = "auto",
    catalog: CatalogPath = None,
    sid: SidPath = None,
    model: ModelPath = None,
    ranker: Annotated[Path | None, typer.Option(help="Ranker of these parts, from `genrecall rank train`.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: RUN/bundle.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Gather model, SIDs, items and classic channels into one directory under one digest.

    Example: genrecall export --run runs/shop --beam 50 --item-cf swing --transition undirected --window 3

    Example: genrecall export --run runs/shop --two-tower 20 --segment country
    """
    from genrecall.bundle.channels import ClassicConfig
    from genrecall.catalog.store import Catalog
    from genrecall.errors import ConfigError
    from genrecall.recall.ann import IndexConfig
    from genrecall.recall.generative import GenerativeConfig
    from genrecall.recall.item_cf import ItemCfConfig
    from genrecall.recall.segments import SegmentConfig
    from genrecall.recall.transition import TransitionConfig
    from genrecall.recipes import stages
    from genrecall.recipes.recipe import Recipe

    if transition not in ("auto", "directed", "undirected"):
        raise ConfigError(
            "unknown kind of transition counts",
            seen=transition,
            allowed="auto, directed, undirected",
            fix="choose another --transition",
        )
    counted = None
    if transition != "auto":
        window, decay = 5 if window is None else window, 0.5 if decay is None else decay
        counted = TransitionConfig(directed=transition == "directed", window=window, decay=decay)
    elif window is not None or decay is not None:
        raise ConfigError(
            "transition counts by the training events have settings of their own",
            seen="--transition auto with " + ("--window" if window is not None else "--decay"),
            allowed="--window and --decay with --transition directed or undirected",
            fix="name --transition, or leave these out",
        )
    loaded = Catalog.load(catalog or run / "catalog")
    towers, vectors = None, None
    if two_tower is not None:
        from genrecall.recall.two_tower import TwoTowerConfig
        from genrecall.text.embed import vectors_of
        from genrecall.train.sequence.config import SequenceConfig

        towers = TwoTowerConfig(train=SequenceConfig(epochs=two_tower))
        vectors = vectors_of(run / "vectors", loaded) if (run / "vectors").is_dir() else None
    similarity: Any = item_cf  # checked by ItemCfConfig
    kind: Any = index  # checked by IndexConfig
    recipe = Recipe(
        generative=GenerativeConfig(beam=beam, items_per_sid=items_per_sid),
        channels=ClassicConfig(
            item_cf=ItemCfConfig(similarity=similarity),
            transition=counted,
            segment=None if segment is None else SegmentConfig(column=segment),
            two_tower=towers,
            index=IndexConfig(kind=kind),
        ),
    )
    bundle = stages.export(
        loaded,
        sid=sid or run / "sid",
        model=model or run / "model",
        out=out or run / "bundle",
        recipe=recipe,
        vectors=vectors,
        ranker=ranker,
        force=force,
    )
    if as_json:
        print(json.dumps({"path": str(bundle.path), "digest": bundle.digest}))
    else:
        for name, value in bundle.manifest.facts.get("two_tower", {}).items():
            print(f"two_tower  {name}: {value}")
        print(f"bundle  {bundle.manifest.facts['items']:,} items  {bundle.path}  {bundle.digest}")


def load(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Open a bundle, verify every checksum, make it ready to answer, and print what it is.

    Example: genrecall load runs/shop/bundle
    """
    from genrecall.bundle.load import Recommender

    shop = Recommender.load(bundle, device=device)
    facts = {
        "digest": shop.digest,
        "items": len(shop.items),
        "space": list(shop.table.space.codes),
        "generators": len(shop.generative.members),
        "normalise": shop.generative.members[0].engine.config.normalise,
        "channels": [shop.generative.name, *shop.channels],
        "ranker": None if shop.ranker is None else shop.ranker.digest,
        "beam": shop.generative.members[0].config.beam,
        "split": dict(shop.split),
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:10} {value}")


@app.command("diff")
def diff(
    before: Annotated[Path, typer.Argument(help="Bundle directory: what is in use.")],
    after: Annotated[Path, typer.Argument(help="Bundle directory: what would replace it.")],
    catalog: Annotated[
        Path | None, typer.Option(help="Catalog whose users are asked for. Default: BEFORE's sibling, if there is one.")
    ] = None,
    users: Annotated[int, typer.Option(min=0, help="Users of the sample; 0 loads no model.")] = 200,
    k: Annotated[int, typer.Option("-k", min=1, help="Depth of the lists that are compared.")] = 10,
    examples: Annotated[int, typer.Option(min=0, help="Ids to show of every kind of change.")] = 5,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Tell what changed between two bundles: parts, settings, items, SIDs, sizes, and the answers to a sample of users.

    Example: genrecall bundle diff runs/shop/bundle runs/new/bundle --users 500
    """
    from genrecall.artifacts import open_artifact
    from genrecall.bundle.diff import KIND, compare
    from genrecall.bundle.overlap import overlaps, sample
    from genrecall.catalog.store import Catalog
    from genrecall.telemetry import log

    path = catalog or before.resolve().parent / "catalog"
    found = {}
    if users and (catalog is not None or path.is_dir()):
        split = open_artifact(after, kind=KIND, verify=False).manifest.config["split"]
        found = overlaps(before, after, sample(Catalog.load(path), split, users), k=k, device=device)
    elif users:
        log(f"no catalog at {path}: answers are not compared (--catalog says whose users to ask for)")
    difference = compare(before, after, found)
    if as_json:
        print(json.dumps(difference.to_dict(), indent=2, ensure_ascii=False))
    else:
        _show(difference, examples)


def _show(found: Difference, examples: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"before  {found.before}\nafter   {found.after}")
    if found.same:
        console.print("the same bundle")
        return
    parts = Table("part", "before", "after", "bytes before", "bytes after", title="Parts")
    for part in found.parts:
        sides = ("same", "same") if part.same else (_short(part.before), _short(part.after))
        parts.add_row(part.name, *sides, f"{part.bytes_before:,}", f"{part.bytes_after:,}")
    total = [sum(part.bytes_before for part in found.parts), sum(part.bytes_after for part in found.parts)]
    parts.add_row("all", "", "", *(f"{size:,}" for size in total))
    console.print(parts)
    if found.settings:
        settings = Table("setting", "before", "after", title="Settings")
        for setting in found.settings:
            settings.add_row(setting.name, json.dumps(setting.before), json.dumps(setting.after))
        console.print(settings)
    items, sids = found.items, found.sids
    changes = Table("what", "count", "for example", title=f"Items and SIDs: {items.before:,} → {items.after:,} items")
    for name, ids in (
        ("items added", items.added), ("items removed", items.removed), ("items whose columns changed", items.changed),
        ("SIDs changed of common items", sids.changed),
    ):  # fmt: skip
        changes.add_row(name, f"{len(ids):,}", ", ".join(ids[:examples]))
    changes.add_row("common items that share their SID with an added one", f"{sids.shared_with_added:,}", "")
    console.print(changes)
    if found.overlaps:
        first = next(iter(found.overlaps.values()))
        lists = Table("channel", f"overlap@{first.k}", "same first item", "identical lists",
                      title=f"Answers to {first.users:,} users")  # fmt: skip
        for name, overlap in found.overlaps.items():
            shares = (overlap.mean, overlap.same_first, overlap.identical)
            lists.add_row(name, *(f"{share:.1%}" for share in shares))
        console.print(lists)


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:15]
