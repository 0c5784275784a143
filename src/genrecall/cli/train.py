"""`genrecall train`: the language model that writes the next SID."""

from __future__ import annotations

import json
from dataclasses import replace
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
    align: Annotated[
        float,
        typer.Option(
            help="Epochs of a first phase that teaches SIDs from texts and texts from SIDs; 0: no such phase."
        ),
    ] = 0.0,
    align_tasks: Annotated[
        str | None,
        typer.Option(
            help="Its mixture, TASK=SHARE,…: query_to_sid, COLUMN_to_sid, sid_to_COLUMN (any text column). "
            "Default: titles, queries, categories, brands and descriptions, both ways."
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Mixture of the phase after it, for example next_item=8,search=1,title_to_sid=1. "
            "Default: the next item alone."
        ),
    ] = None,
    train_queries: Annotated[
        Path | None, typer.Option(help="Queries to train on (query_id, query), beside those of the log.")
    ] = None,
    train_query_items: Annotated[
        Path | None,
        typer.Option(help="Their items (query_id, item_id). The catalog's own queries are never trained on."),
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
    shard: Annotated[
        bool, typer.Option("--shard", help="Under torchrun: spread the model over the processes (FSDP2), no copies.")
    ] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute activations twice to store fewer.")
    ] = False,
    stored_layers: Annotated[
        int, typer.Option(min=0, help="With it: so many layers store theirs all the same, as memory allows.")
    ] = 0,
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

    Example: genrecall train --backbone Qwen/Qwen3-0.6B --align 3 --epochs 4 --tasks next_item=8,search=1,title_to_sid=1

    Example: torchrun --nproc-per-node 8 -m genrecall train -r runs/shop --backbone DIR --align 3 --shard
    (torchrun reads --run as its own: write -r there.)
    """
    from genrecall import processes, telemetry
    from genrecall.catalog.queries import read_search_cases
    from genrecall.catalog.store import Catalog
    from genrecall.model.config import ModelConfig
    from genrecall.model.lora import LoraSettings
    from genrecall.prompt.history import HistoryConfig
    from genrecall.recipes.recipe import Recipe
    from genrecall.recipes.stages import train_model
    from genrecall.train.config import TrainConfig
    from genrecall.train.corpus import Pairs
    from genrecall.train.distil import DistilConfig
    from genrecall.train.mixture import Mixture, parse_shares

    _require_consistent(size, backbone, lora)
    _require_whole(align, align_tasks, train_queries, train_query_items, align > 0 or tasks is not None)
    if not processes.is_main():
        telemetry.console.quiet = True
    chosen: Any = normalise  # checked by TrainConfig
    usual_rate = (3e-4 if lora else 1e-4) if backbone else 2e-3
    second = TrainConfig(
        epochs=epochs,
        max_seconds=max_seconds,
        batch_tokens=batch_tokens,
        accumulate=accumulate,
        optimizer="adamw" if backbone else "muon",
        learning_rate=usual_rate if learning_rate is None else learning_rate,
        dropout=dropout if dropout is not None else (0.0 if backbone else 0.2),
        distil=DistilConfig() if distil else None,
        mixture=Mixture(shares=parse_shares(tasks)) if tasks else None,
        max_events_per_user=last_events,
        reshuffle_ties=reshuffle_ties,
        normalise=chosen,
        patience=patience,
        eval_every=eval_every,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        stored_layers=stored_layers,
        lora=LoraSettings(rank=lora, alpha=2 * lora) if lora else None,
        device=device,
        shard=shard,
        seed=seed,
    )
    first = Mixture(shares=parse_shares(align_tasks)) if align_tasks else Mixture()
    recipe = Recipe(
        name="train",
        split=split_config(split, repeats, tie_seed),
        backbone=backbone,
        model=ModelConfig(size=size or "small", seed=seed),
        template=template or ("zh" if backbone else "compact"),
        history=HistoryConfig(max_items=max_items, order=order, deduplicate=deduplicate, session_gap=session_gap),
        align=replace(second, epochs=align, max_seconds=None, mixture=first, distil=None) if align else None,
        train=second,
    )
    loaded = Catalog.load(catalog or run / "catalog")
    pairs = None
    if train_queries is not None and train_query_items is not None:
        pairs = Pairs.of(read_search_cases(train_queries, train_query_items, loaded.items, leave_out_unknown=True))
    model = train_model(
        loaded,
        recipe.split.divide(loaded),
        sid=sid or run / "sid",
        out=out or run / "model",
        recipe=recipe,
        pairs=pairs,
        force=force,
    )
    if not processes.is_main():
        return
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


def _require_whole(
    align: float, align_tasks: str | None, queries: Path | None, items: Path | None, has_tasks: bool
) -> None:
    """Options that mean nothing without another one."""
    from genrecall.errors import ConfigError

    alone = [
        (align_tasks is not None and not align, "--align-tasks", "--align"),
        ((queries is None) != (items is None), "one of --train-queries and --train-query-items", "the other"),
        (queries is not None and not has_tasks, "--train-queries", "--align or --tasks"),
    ]
    for wrong, seen, missing in alone:
        if wrong:
            raise ConfigError(
                "an option means nothing without another",
                seen=f"{seen} without {missing}",
                allowed="both, or neither",
                fix=f"add {missing}",
            )
