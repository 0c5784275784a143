"""A catalog in memory, and encoders small enough to be saved in a test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from genrecall.catalog.events import Events
from genrecall.catalog.items import Items
from genrecall.catalog.store import Catalog
from genrecall.text.batching import encode_distinct

WORDS = ["red", "blue", "green", "lamp", "clock", "basket", "candle"]


class LetterEncoder:
    """Counts letters: an encoder whose every answer can be told in advance."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    @property
    def dim(self) -> int:
        return 26

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": "letters", "version": "1", "dim": 26, "pooling": "sum", "digest": "none"}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return encode_distinct(texts, self.dim, self._chunk, label="letters", chunk=8)

    def _chunk(self, texts: Sequence[str], done: Any) -> np.ndarray:
        self.calls.append(list(texts))
        done(len(texts))
        return np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], np.float32)


def make_items(**columns: list[Any]) -> Items:
    count = len(next(iter(columns.values())))
    columns.setdefault("title", [f"item {i}" for i in range(count)])
    return Items(table=pa.table({"item_id": [f"i{i}" for i in range(count)], **columns}))


def make_catalog(items: Items, digest: str = "") -> Catalog:
    return Catalog(items=items, events=Events.of([], [], []), digest=digest)


@pytest.fixture
def catalog() -> Catalog:
    return make_catalog(make_items(title=["red lamp", "blue clock", "green basket", "red lamp"]))


@pytest.fixture(scope="session")
def bert_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers as `transformers` saves it."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    directory = tmp_path_factory.mktemp("models") / "tiny-bert"
    directory.mkdir()
    (directory / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast.from_pretrained(directory).save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=16, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(directory)
    return directory


def add_modules(directory: Path, *, normalise: bool, pooling: dict[str, Any], prompts: dict[str, str]) -> None:
    """Turn a Hugging Face directory into one of sentence-transformers (its older form)."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else f"{i}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6, "do_lower_case": False}))
    (directory / "config_sentence_transformers.json").write_text(
        json.dumps({"__version__": {"sentence_transformers": "5.0.0"}, "prompts": prompts})
    )
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
