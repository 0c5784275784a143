"""A pretrained backbone through every stage: vocabulary grown, tuned whole or by LoRA, exported, asked."""

import dataclasses
from pathlib import Path

import pytest
from tests import pipeline

from genrecall import Recommender
from genrecall.artifacts import open_artifact
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError
from genrecall.model.lora import LoraSettings
from genrecall.prompt.template import load_template
from genrecall.prompt.vocabulary import Vocabulary
from genrecall.recipes import stages
from genrecall.sid.space import SidSpace


def _save(directory: Path, family: str, titles: list[str]) -> Path:
    """A tiny model of a family, with a word tokenizer that has still to learn the SID tokens."""
    import transformers

    words = [*load_template("zh").texts(), *titles]
    tokenizer = Vocabulary.scratch(SidSpace((1,)), words).tokenizer
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512,
    )  # fmt: skip
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.parametrize(("family", "lora"), [("Qwen2", None), ("Llama", LoraSettings(rank=4, alpha=8))])
def test_a_backbone_is_tuned_shipped_and_asked(
    run: Path, tmp_path: Path, family: str, lora: LoraSettings | None
) -> None:
    catalog = Catalog.load(run / "catalog")
    backbone = _save(tmp_path / "backbone", family, catalog.items.titles)
    recipe = dataclasses.replace(
        pipeline.RECIPE,
        backbone=str(backbone),
        template="zh",
        train=dataclasses.replace(pipeline.RECIPE.train, optimizer="adamw", lora=lora, epochs=2, learning_rate=3e-3),
    )
    split = recipe.split.divide(catalog)
    model = stages.train_model(catalog, split, sid=run / "sid", out=tmp_path / "model", recipe=recipe)
    assert str(tmp_path) not in (model.path / "manifest.json").read_text()
    stages.export(catalog, sid=run / "sid", model=tmp_path / "model", out=tmp_path / "bundle", recipe=recipe)
    shop = Recommender.load(tmp_path / "bundle", device="cpu")
    answer = shop.recommend(["i0", "i8"], profile={"country": "France"}, k=5)
    assert len({item.item_id for item in answer.items}) == 5
    assert shop.generative.invalid_sid_rate == 0
    assert open_artifact(tmp_path / "bundle").manifest.config["normalise"] == ["trie"]


def test_a_family_that_cannot_be_served_is_refused_before_training(run: Path, tmp_path: Path) -> None:
    catalog = Catalog.load(run / "catalog")
    backbone = _save(tmp_path / "backbone", "Mistral", catalog.items.titles)
    recipe = dataclasses.replace(pipeline.RECIPE, backbone=str(backbone), template="zh")
    with pytest.raises(ConfigError, match="allowed"):
        stages.train_model(
            catalog, recipe.split.divide(catalog), sid=run / "sid", out=tmp_path / "model", recipe=recipe
        )
    assert not (tmp_path / "model").exists()
