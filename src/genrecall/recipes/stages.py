"""The stages that join several packages: training with its validation, export, evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genrecall.artifacts import MANIFEST, Artifact, is_current, open_artifact
from genrecall.bundle.export import BundleConfig, export_bundle
from genrecall.bundle.load import Recommender
from genrecall.catalog.split import Split
from genrecall.catalog.store import Catalog
from genrecall.engine.config import EngineConfig
from genrecall.engine.device.architecture import Architecture
from genrecall.engine.engine import Engine
from genrecall.errors import ArtifactError, ConfigError
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.harness import evaluate, queries_of
from genrecall.eval.lock import Final
from genrecall.index.trie import Trie
from genrecall.model.backbones import build_scratch, load_backbone, load_tokenizer
from genrecall.model.weights import load_model
from genrecall.prompt.grounding import title_tokens
from genrecall.prompt.prompt import PromptBuilder
from genrecall.prompt.template import Template, load_template
from genrecall.prompt.vocabulary import Vocabulary
from genrecall.recall.basket import BasketChannel
from genrecall.recall.generative import GenerativeChannel, GenerativeConfig
from genrecall.recall.transition import TransitionChannel, in_baskets
from genrecall.recipes.recipe import Recipe, SplitConfig
from genrecall.sid.table import SidTable
from genrecall.telemetry import log
from genrecall.text.vectors import Vectors
from genrecall.train.corpus import Corpus, Pairs, corpus_of
from genrecall.train.distil import Counts
from genrecall.train.loop import artifact_config, train
from genrecall.train.mixture import NEXT_ITEM

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train_model(
    catalog: Catalog,
    split: Split,
    *,
    sid: Path,
    out: Path,
    recipe: Recipe,
    pairs: Pairs | None = None,
    force: bool = False,
) -> Artifact:
    """Train on the split's training events, choose by Recall@10 on its validation cases; a current model is kept.

    Args:
        catalog: items and events.
        split: of its events.
        sid: ``sid`` artifact.
        out: directory of the model; a first phase (``recipe.align``) lies beside it, as ``<out>-aligned``.
        recipe: settings.
        pairs: queries with items to train on, beside those of the log, where a mixture asks for queries.
        force: train even if the model is current.
    """
    if recipe.align is not None:
        first = replace(recipe, train=recipe.align, align=None)
        place = out.with_name(f"{out.name}-aligned")
        aligned = train_model(catalog, split, sid=sid, out=place, recipe=first, pairs=pairs, force=force)
        recipe = replace(recipe, backbone=str(aligned.path))
    table = SidTable.load(sid)
    table.require_items(catalog.items.ids)
    _require_same_events(sid, split, recipe.grown_from)
    template = recipe.template if isinstance(recipe.template, Template) else load_template(recipe.template)
    mixture = recipe.train.mixture
    corpus = corpus_of(catalog, split.train, mixture, pairs) if mixture is not None else None
    vocabulary = _vocabulary(catalog, table, template, recipe, corpus)
    window = None if recipe.backbone else recipe.model.window
    model: PreTrainedModel | None = None
    if recipe.backbone:
        older = open_artifact(sid, kind="sid", verify=False).manifest.config.get("descends_from", [])
        model = _pretrained(catalog, table, vocabulary, recipe, older)
        window = int(model.config.max_position_embeddings)
    prompts = PromptBuilder(
        vocabulary, template, recipe.history, table.sids, titles=catalog.items.titles, max_tokens=window
    )
    parents = {"catalog": catalog.digest, "sid": table.digest}
    if corpus is not None:
        parents["corpus"] = corpus.digest
    facts = recipe.facts()
    config = artifact_config(recipe.train, prompts, facts)
    if not force and is_current(out, kind="model", config=config, parents=parents):
        log(f"model in {out} is current: nothing to do")
        return open_artifact(out, kind="model")
    trie = Trie.build(table.space, table.sids)
    if model is None:
        model = build_scratch(recipe.model, vocabulary.size)
    data = f"{len(split.train.items):,} events of {len(split.train):,} users"
    log(f"training {model.num_parameters():,} parameters on {data}")
    asked = mixture is None or NEXT_ITEM in mixture.shares  # pure alignment cannot answer validation cases yet
    result = train(
        model,
        prompts,
        split.train,
        out=out,
        config=recipe.train,
        trie=trie,
        corpus=corpus,
        teacher=counts_teacher(split, len(catalog.items)) if recipe.train.distil else None,
        profile_of=catalog.profile_of,
        validate=recall_at_10(catalog, split, table, trie, prompts, recipe) if len(split.valid) and asked else None,
        parents=parents,
        recipe=facts,
    )
    log(f"{result.epochs:.1f} epochs, stopped by {result.stopped}; {result.tokens_per_s:,.0f} tokens/s")
    return open_artifact(out, kind="model")


def counts_teacher(split: Split, num_items: int) -> Counts:
    """The counts that suit the training events, as a teacher: of baskets where there are any, else of transitions."""
    Counts.require_room(num_items)
    channel = (BasketChannel if in_baskets(split.train) else TransitionChannel).fit(split.train, num_items)
    log(f"teacher: the counts of the channel {channel.name}, fitted on the training events")
    counted = channel.neighbours
    return Counts(
        matrix=counted.matrix.toarray(),
        decay=counted.decay,
        last=counted.last,
        session_weight=counted.session_weight,
    )


def recall_at_10(
    catalog: Catalog, split: Split, table: SidTable, trie: Trie, prompts: PromptBuilder, recipe: Recipe
) -> Callable[[PreTrainedModel], float]:
    """Validation for the training loop: Recall@10 of the generative channel on a fixed sample of validation cases."""
    count = min(recipe.validation_cases, len(split.valid))
    cases = split.valid.subset(np.sort(np.random.default_rng(0).permutation(len(split.valid))[:count]))
    counts = split.train.item_counts(len(catalog.items))
    queries = queries_of(cases, recipe.split.protocol(split), catalog.profile_of)
    settings = EngineConfig(normalise=recipe.train.normalise, device=recipe.train.device)
    search = GenerativeConfig(beam=recipe.validation_beam)

    def measure(model: PreTrainedModel) -> float:
        engine = Engine(model, trie, prompts.vocabulary.sid_tokens, settings)
        found = GenerativeChannel(engine, prompts, table, counts, search).recall(queries, 10)
        return float((found.items == cases.targets[:, None]).any(axis=1).mean())

    return measure


def export(
    catalog: Catalog,
    *,
    sid: Path,
    model: Path,
    out: Path,
    recipe: Recipe,
    vectors: Vectors | None = None,
    ranker: Path | None = None,
    force: bool = False,
) -> Artifact:
    """Gather the bundle; its split is the one that the model was trained under."""
    trained = open_artifact(model, kind="model").manifest.config
    split = SplitConfig(**trained["recipe"]["split"])
    config = BundleConfig(
        generative=recipe.generative,
        channels=recipe.channels,
        split=asdict(split),
        remarks=_remarks(trained["train"]),
    )
    return export_bundle(
        catalog,
        split.divide(catalog).train,
        sid=sid,
        model=model,
        out=out,
        config=config,
        vectors=vectors,
        ranker=ranker,
        force=force,
    )


def _remarks(train: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader of a table must know of the generative channel's training."""
    remarks = []
    if train["distil"] is not None:
        remarks.append("the generative channel was trained on the events and on counts of the same events")
    if train["max_events_per_user"] is not None:
        last = train["max_events_per_user"]
        remarks.append(f"it saw each user's last {last} training events, the other channels all of them")
    return tuple(remarks)


def evaluate_bundle(
    recommender: Recommender,
    catalog: Catalog,
    *,
    final: Final | None = None,
    cases: int | None = None,
    remarks: tuple[str, ...] = (),
    history: str | None = None,
) -> Evaluation:
    """Every channel of a bundle under the protocol that it was fitted for.

    Args:
        recommender: the bundle.
        catalog: with the events; its items are the bundle's.
        final: leave to read the test part, which is recorded; without it the validation cases are asked.
        cases: ask only so many, chosen by a fixed seed; stated in the protocol.
        remarks: whatever else a reader of the table must know.
        history: ``removed`` or ``kept``; None as the bundle says.
    """
    if recommender.catalog_digest != catalog.digest:
        raise ArtifactError(
            "the bundle was made from another catalog",
            seen=f"bundle of {recommender.catalog_digest}, catalog {catalog.digest}",
            allowed="the bundle's own catalog: of another one, test cases may have been trained on",
            fix="give the --catalog that the bundle was exported from, or export again",
        )
    config = SplitConfig(**{**recommender.split, **({"history": history} if history else {})})
    split = config.divide(catalog)
    asked = split.test if final else split.valid
    if cases is not None and cases < len(asked):
        remarks = (*remarks, f"{cases:,} of {len(asked):,} cases, drawn at random (seed 0)")
        asked = asked.subset(np.sort(np.random.default_rng(0).permutation(len(asked))[:cases]))
    generative = recommender.generative
    evaluation = evaluate(
        [generative, *recommender.channels.values()],
        asked,
        num_items=len(catalog.items),
        protocol=config.protocol(split, remarks=(*recommender.remarks, *remarks)),
        train_counts=split.train.item_counts(len(catalog.items)),
        final=replace(final, bundle=recommender.digest, catalog=catalog.digest) if final else None,
        profile=catalog.profile_of,
        log_scores=(generative.name,),
        groups=recommender.table.sids[:, 0],
    )
    return evaluation.with_invalid_sid_rate(generative.name, generative.invalid_sid_rate)


def _vocabulary(
    catalog: Catalog, table: SidTable, template: Template, recipe: Recipe, corpus: Corpus | None
) -> Vocabulary:
    if recipe.backbone:
        return Vocabulary.extend(load_tokenizer(recipe.backbone), table.space)
    texts = template.texts()
    if catalog.users is not None:
        texts += [name for name in catalog.users.column_names if name != "user_id"]
        users = range(len(catalog.events.user_ids))
        texts += sorted({value for user in users for value in catalog.profile_of(user).values()})
    if corpus is not None:
        texts += template.task_texts() + [text for own in corpus.texts.values() for told in own for text in told]
        texts += corpus.pairs.texts
    return Vocabulary.scratch(table.space, [*texts, *(catalog.items.titles if template.uses_titles else [])])


def _pretrained(
    catalog: Catalog, table: SidTable, vocabulary: Vocabulary, recipe: Recipe, older: Sequence[str]
) -> PreTrainedModel:
    """The backbone with grounded rows: a code starts from the title tokens of the items that carry it."""
    assert recipe.backbone is not None
    if (Path(recipe.backbone) / MANIFEST).is_file():
        return _aligned(Path(recipe.backbone), table, older)
    model = load_backbone(
        recipe.backbone,
        vocab_size=vocabulary.size,
        new_tokens=np.concatenate(vocabulary.sid_tokens),
        grounding=title_tokens(vocabulary, table.sids, catalog.items.titles),
        seed=recipe.train.seed,
    )
    Architecture.read(model)  # what the engine could not serve is refused before it is trained
    return model


def _aligned(backbone: Path, table: SidTable, older: Sequence[str]) -> PreTrainedModel:
    """A model of ours to go on from: its rows have learnt these SIDs (or those before items came), and are kept."""
    learnt = open_artifact(backbone, kind="model").manifest.parents.get("sid")
    if learnt not in (table.digest, *older):
        raise ConfigError(
            "the backbone was trained on other SIDs",
            seen=f"backbone: {learnt}; table: {table.digest}",
            allowed="one SID table for both phases",
            fix="align with this table first, or give the --sid that the backbone was trained with",
        )
    return load_model(backbone)


def _require_same_events(sid: Path, split: Split, grown_from: Sequence[str]) -> None:
    """SIDs that were fitted on behaviour must have seen the same training events, or they have seen the answers."""
    fitted_on = open_artifact(sid, kind="sid", verify=False).manifest.parents.get("histories")
    if fitted_on not in (None, split.train.digest, *grown_from):
        raise ConfigError(
            "the SIDs were fitted on other events than these training events",
            seen=f"SIDs: {fitted_on}; training: {split.train.digest} ({split.rule})",
            allowed="one split for both",
            fix="run `genrecall sid build` with the same --split and --repeats, or train with the SIDs' own",
        )
