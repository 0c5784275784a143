"""`genrecall train`: the language model that writes the next SID."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

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
)


def command(
    run: Run = RUN,
    size: Annotated[str | None, typer.Option(help="Model from scratch: tiny, small or base. Default: small.")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Tune this instead: a HF causal LM (directory or Hub name; Qwen2/3, Llama family)."),
    ] = None,
    lora: Annotated[int, typer.Option(help="Rank of LoRA for a backbone; 0 tunes all weights.")] = 0,
    template: Annotated[
        str | None, typer.Option(help="Prompt: compact, zh, en or a TOML file. Default: compact from scratch, else zh.")
    ] = None,
    max_items: Annotated[int, typer.Option(help="History events that a prompt shows.")] = 50,
    order: Annotated[str, typer.Option(help="oldest_first or newest_first.")] = "oldest_first",
    deduplicate: Annotated[
        str, typer.Option(help="Of an item's events show all (none), the first or the last.")
    ] = "none",
    session_gap: Annotated[
        bool, typer.Option("--session-gap", help="Put a separator after the first item of each new time.")
    ] = False,
    last_events: Annotated[
        int | None, typer.Option(help="Train on each user's last so many events. Default: on all.")
    ] = None,
    reshuffle_ties: Annotated[
        bool, typer.Option("--reshuffle-ties", help="Events of equal time get a new order every epoch.")
    ] = False,
    epochs: Annotated[float, typer.Option(help="Passes over the events, at most.")] = 20.0,
    max_seconds: Annotated[float | None, typer.Option(help="Wall time, at most; the schedule ends with it.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens a forward pass.")] = 8192,
    accumulate: Annotated[int, typer.Option(help="Forward passes an optimiser step.")] = 1,
    learning_rate: Annotated[
        float | None, typer.Option(help="Default: 2e-3 from scratch, 1e-4 for a backbone, 3e-4 with LoRA.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="Default: 0.2 from scratch, 0 for a backbone.")] = None,
    distil: Annotated[
        bool, typer.Option("--distil", help="Learn from counts of the training events, too (baskets or transitions).")
    ] = False,
    normalise: Annotated[
        str, typer.Option(help="Softmax over valid codes (trie) or all codes of the level (level).")
    ] = "trie",
    patience: Annotated[int, typer.Option(help="Stop after so many validations without a better one; 0: never.")] = 5,
    eval_every: Annotated[float, typer.Option(help="Epochs between validations.")] = 1.0,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    split: SplitRule = "leave_one_out",
    repeats: Repeats = "first",
    tie_seed: TieSeed = 0,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 0,
    device: Device = "auto",
    catalog: CatalogPath = None,
    sid: SidPath = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: RUN/model.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train on every prefix of every history; stop early by Recall@10 on validation. Killed runs resume.

    Example: genrecall train --run runs/shop --size small --epochs 20
    """
    from genrecall.catalog.store import Catalog
    from genrecall.model.config import ModelConfig
    from genrecall.model.lora import LoraSettings
    from genrecall.prompt.history import HistoryConfig
    from genrecall.recipes.recipe import Recipe
    from genrecall.recipes.stages import train_model
    from genrecall.train.config import TrainConfig
    from genrecall.train.distil import DistilConfig

    _require_consistent(size, backbone, lora)
    chosen: Any = normalise  # checked by TrainConfig
    usual_rate = (3e-4 if lora else 1e-4) if backbone else 2e-3
    recipe = Recipe(
        name="train",
        split=split_config(split, repeats, tie_seed),
        backbone=backbone,
        model=ModelConfig(size=size or "small", seed=seed),
        template=template or ("zh" if backbone else "compact"),
        history=HistoryConfig(max_items=max_items, order=order, deduplicate=deduplicate, session_gap=session_gap),
        train=TrainConfig(
            epochs=epochs,
            max_seconds=max_seconds,
            batch_tokens=batch_tokens,
            accumulate=accumulate,
            optimizer="adamw" if backbone else "muon",
            learning_rate=usual_rate if learning_rate is None else learning_rate,
            dropout=dropout if dropout is not None else (0.0 if backbone else 0.2),
            distil=DistilConfig() if distil else None,
            max_events_per_user=last_events,
            reshuffle_ties=reshuffle_ties,
            normalise=chosen,
            patience=patience,
            eval_every=eval_every,
            precision=precision,
            lora=LoraSettings(rank=lora, alpha=2 * lora) if lora else None,
            device=device,
            seed=seed,
        ),
    )
    loaded = Catalog.load(catalog or run / "catalog")
    model = train_model(
        loaded,
        recipe.split.divide(loaded),
        sid=sid or run / "sid",
        out=out or run / "model",
        recipe=recipe,
        force=force,
    )
    facts = model.manifest.facts
    if as_json:
        print(json.dumps({"path": str(model.path), "digest": model.digest, **facts}, ensure_ascii=False, indent=2))
    else:
        best = "no validation" if facts["best"] is None else f"validation Recall@10 {facts['best']:.4f}"
        print(f"model  {best}  {facts['epochs']:.1f} epochs in {facts['seconds']:.0f} s  {model.path}  {model.digest}")


def _require_consistent(size: str | None, backbone: str | None, lora: int) -> None:
    from genrecall.errors import ConfigError

    if (size and backbone) or (lora and not backbone):
        raise ConfigError(
            "these options contradict each other",
            seen="--size with --backbone" if size else "--lora without --backbone",
            allowed="--size for a model from scratch, or --backbone (with or without --lora)",
            fix="leave one of them out",
        )
