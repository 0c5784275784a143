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
    """
    from genrecall.bundle.channels import ClassicConfig
    from genrecall.catalog.store import Catalog
    from genrecall.errors import ConfigError
    from genrecall.recall.generative import GenerativeConfig
    from genrecall.recall.item_cf import ItemCfConfig
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
    similarity: Any = item_cf  # checked by ItemCfConfig
    recipe = Recipe(
        generative=GenerativeConfig(beam=beam, items_per_sid=items_per_sid),
        channels=ClassicConfig(item_cf=ItemCfConfig(similarity=similarity), transition=counted),
    )
    bundle = stages.export(
        Catalog.load(catalog or run / "catalog"),
        sid=sid or run / "sid",
        model=model or run / "model",
        out=out or run / "bundle",
        recipe=recipe,
        ranker=ranker,
        force=force,
    )
    if as_json:
        print(json.dumps({"path": str(bundle.path), "digest": bundle.digest}))
    else:
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
