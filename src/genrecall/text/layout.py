"""What a model directory says of itself: which files, how token vectors become one, how long texts may be."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrecall.artifacts import sha256
from genrecall.errors import ConfigError

POOLINGS = ("mean", "cls", "max", "lasttoken")
_MODULES = "modules.json"
_OLD_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}
_PLAIN_TRANSFORMER = {"max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"}
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_IDENTIFYING = (".safetensors", ".json", ".txt", ".model")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A directory that plain `transformers` can run.

    Attributes:
        directory: holds configuration, tokenizer and safetensors.
        pooling: one of ``POOLINGS``.
        normalise: whether vectors are brought to unit length.
        max_tokens: longer texts are cut; None leaves it to tokenizer and positions.
    """

    directory: Path
    pooling: str = "mean"
    normalise: bool = True
    max_tokens: int | None = None


def read_layout(directory: Path) -> Layout | None:
    """Understand a directory; None where only sentence-transformers itself can run it.

    A Hugging Face directory without ``modules.json`` gets mean pooling and unit length.
    """
    root = _read(directory / _MODULES)
    if root is None:
        if not (directory / "config.json").is_file():
            raise ConfigError(
                "this directory holds no text encoder",
                seen=f"{directory}: neither {_MODULES} nor config.json",
                allowed="a directory saved by sentence-transformers, or by transformers (model and tokenizer)",
                fix="correct --encoder, or save the model there with save_pretrained",
            )
        return Layout(directory=directory)
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in root]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return None
    folder = directory / root[0]["path"]
    settings = _read(folder / "sentence_bert_config.json") or {}
    pooling = _pooling(_read(directory / root[1]["path"] / "config.json") or {})
    prompts = _read(directory / "config_sentence_transformers.json") or {}
    if pooling is None or not _plain(settings) or _prompted(prompts):
        return None
    return Layout(
        directory=folder,
        pooling=pooling,
        normalise=kinds[-1] == "Normalize",
        max_tokens=settings.get("max_seq_length"),
    )


def require_safetensors(directory: Path) -> None:
    """Refuse weights in other formats: reading them can run code."""
    if not any(directory.glob("*.safetensors")):
        others = sorted(file.name for file in directory.iterdir() if file.suffix in (".bin", ".pt", ".h5", ".onnx"))
        raise ConfigError(
            f"{directory} has no weights that can be read safely",
            seen=", ".join(others) or "no weights",
            allowed="*.safetensors",
            fix="save the model again with save_pretrained(…, safe_serialization=True)",
        )


def refuse_pickles(directory: Path) -> None:
    """Refuse a directory of modules where any folder has only weights whose reading can run code."""
    unsafe = []
    for file in sorted(directory.rglob("*")):
        if file.suffix in _PICKLES and not file.name.startswith("openvino_"):
            beside = (file.with_name(name) for name in ("model.safetensors", "model.safetensors.index.json"))
            if not any(safe.is_file() for safe in beside):
                unsafe.append(file.relative_to(directory).as_posix())
    if unsafe:
        raise ConfigError(
            f"{directory} has weights that cannot be read safely",
            seen=", ".join(unsafe[:8]),
            allowed="model.safetensors in every folder with weights",
            fix="save the model again with save_pretrained(…, safe_serialization=True), or remove spare files",
        )


def digest_of(directory: Path) -> str:
    """``sha256:…`` over weights, configuration and tokenizer, by relative name."""
    total = hashlib.sha256()
    for file in sorted(directory.rglob("*")):
        if file.suffix in _IDENTIFYING and file.is_file():
            total.update(f"{file.relative_to(directory).as_posix()} {sha256(file)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _read(file: Path) -> Any:
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            "a file of the encoder is damaged", seen=f"{file}: {error}", allowed="JSON", fix="save the model again"
        ) from None


def _pooling(config: dict[str, Any]) -> str | None:
    """The one pooling mode; None for mixtures, and where a prompt is left out of the mean."""
    named = config.get("pooling_mode")
    modes = [named] if named is not None else [mode for flag, mode in _OLD_FLAGS.items() if config.get(flag)]
    unknown = [key for key, on in config.items() if key.startswith("pooling_mode_") and on and key not in _OLD_FLAGS]
    if len(modes) != 1 or modes[0] not in POOLINGS or unknown or not config.get("include_prompt", True):
        return None
    return str(modes[0])


def _plain(settings: dict[str, Any]) -> bool:
    return (
        set(settings) <= _PLAIN_TRANSFORMER
        and not settings.get("do_lower_case")
        and settings.get("transformer_task", "feature-extraction") == "feature-extraction"
        and set(settings.get("modality_config", {})) <= {"text"}
    )


def _prompted(config: dict[str, Any]) -> bool:
    prompts = config.get("prompts") or {}
    return bool(config.get("default_prompt_name")) or any(prompts.get(name) for name in _DOCUMENT_PROMPTS)
