"""`genrecall fuse`: how a bundle's channels are joined, and what each of them is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from genrecall.cli.options import RUN, AsJson, BundlePath, CatalogPath, Device, Run


def command(
    run: Run = RUN,
    channels: Annotated[str, typer.Option(help="To fuse, separated by commas. Default: all that read histories.")] = "",
    method: Annotated[
        str, typer.Option(help="To try, separated by commas: rrf, weighted, learned.")
    ] = "rrf,weighted,learned",
    cases: Annotated[int, typer.Option(min=20, help="Validation cases that are asked.")] = 2000,
    catalog: CatalogPath = None,
    bundle: BundlePath = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: the bundle itself, replaced.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Fit the fusion of a bundle's channels on validation cases, ship it, and tell what each channel adds.

    Example: genrecall fuse --run runs/shop --method rrf,learned
    """
    from genrecall.catalog.store import Catalog
    from genrecall.recall.fusion import FusionFit
    from genrecall.recipes.fusing import fuse

    tried: Any = tuple(name for name in method.split(",") if name)  # checked by FusionConfig
    found = fuse(
        bundle or run / "bundle",
        Catalog.load(catalog or run / "catalog"),
        out or bundle or run / "bundle",
        channels=[name for name in channels.split(",") if name],
        cases=cases,
        config=FusionFit(methods=tried, device=device),
        device=device,
    )
    report = found.report
    if as_json:
        print(json.dumps({"path": str(found.bundle.path), "digest": found.bundle.digest, **report}, indent=2))
        return
    k = report["k"]
    print(f"chosen     {report['method']} {report['settings']}")
    print(
        f"NDCG@10    {report['ndcg@10']:.4f} on the half that it was not fitted on; Recall@10 {report['recall@10']:.4f}"
    )
    print(f"\n{'channel':24}{'alone R@10':>12}{f'lost R@{k}':>12}{f'lost NDCG@{k}':>14}{'only it finds':>15}")
    for name, part in sorted(report["contributions"].items(), key=lambda pair: -pair[1]["recall_lost"]):
        alone = report["channels"][name]["recall@10"]
        print(f"{name:24}{alone:12.4f}{part['recall_lost']:12.4f}{part['ndcg_lost']:14.4f}{part['only']:15.4f}")
    print(f"\nbundle  {found.bundle.path}  {found.bundle.digest}")
