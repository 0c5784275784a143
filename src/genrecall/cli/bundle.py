"""`genrecall export` and `genrecall load`: make a bundle; check one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from genrecall.cli.options import RUN, AsJson, CatalogPath, Device, Force, ModelPath, Run, SidPath


def export(
    run: Run = RUN,
    beam: Annotated[int, typer.Option(help="Beam width of the search that is shipped.")] = 50,
    items_per_sid: Annotated[int | None, typer.Option(help="At most so many items of one SID in a list.")] = None,
    item_cf: Annotated[str, typer.Option(help="Similarity of the item-CF channel: cosine or swing.")] = "cosine",
    transition: Annotated[
        str, typer.Option(help="Transition counts: directed, undirected, or auto by the training events.")
    ] = "auto",
    window: Annotated[int, typer.Option(help="Largest distance of a counted transition; not with auto.")] = 5,
    decay: Annotated[float, typer.Option(help="Weight of a history item one step older; not with auto.")] = 0.5,
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
        counted = TransitionConfig(directed=transition == "directed", window=window, decay=decay)
    towers, vectors = None, None
    if two_tower is not None:
        from genrecall.recall.two_tower import TwoTowerConfig
        from genrecall.text.vectors import Vectors
        from genrecall.train.sequence.config import SequenceConfig

        towers = TwoTowerConfig(train=SequenceConfig(epochs=two_tower))
        vectors = Vectors.load(run / "vectors") if (run / "vectors").is_dir() else None
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
        Catalog.load(catalog or run / "catalog"),
        sid=sid or run / "sid",
        model=model or run / "model",
        out=out or run / "bundle",
        recipe=recipe,
        vectors=vectors,
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
        "beam": shop.generative.members[0].config.beam,
        "split": dict(shop.split),
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:10} {value}")
