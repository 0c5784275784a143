"""A ranker in memory: what is asked goes through the same features as in training, then through one forward."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from genrecall.errors import ArtifactError, ConfigError
from genrecall.hardware import pick_device
from genrecall.rank.affinity import Relation
from genrecall.rank.columns import Asked, Columns, Ragged
from genrecall.rank.embedding import Tables
from genrecall.rank.features import Features
from genrecall.rank.fused import Fused
from genrecall.rank.inputs import Inputs, ItemSide, inputs_of
from genrecall.rank.model import NetworkConfig, RankNetwork
from genrecall.rank.schema import FORMAT, Schema
from genrecall.telemetry import log

RANKER, TABLES, VOCABULARIES = "ranker.json", "tables.safetensors", "vocabularies.safetensors"
ITEMS, NETWORK, RELATIONS = "items.safetensors", "network.safetensors", "relations.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Logits float32 (P,), calibrated probabilities float32 (P,), and the version of the tables that gave them."""

    logits: np.ndarray
    probabilities: np.ndarray
    version: int

    def split(self, lengths: Sequence[int]) -> list[Scored]:
        """Of consecutive requests with so many candidates each."""
        cuts = np.cumsum(lengths)[:-1]
        parts = zip(np.split(self.logits, cuts), np.split(self.probabilities, cuts), strict=True)
        return [Scored(logits=x, probabilities=p, version=self.version) for x, p in parts]


class Ranker:
    """Scores candidates.

    Args:
        features: with schema, items' columns and vocabularies.
        vocabularies: uint64 codes by vocabulary feature.
        vectors: float32 (I, D) of the items; None where the schema reads none.
        network: on its device.
        tables: on the same device.
        digest: of the artifact; empty while there is none.
    """

    def __init__(
        self,
        features: Features,
        vocabularies: Mapping[str, np.ndarray],
        vectors: np.ndarray | None,
        network: RankNetwork,
        tables: Tables,
        digest: str = "",
    ) -> None:
        self.features, self.vocabularies, self.vectors = features, vocabularies, vectors
        self.network, self.tables, self.digest = network.eval(), tables, digest
        self._items = ItemSide.of(features, vectors, self.device)
        self._fused = self._fuse()

    @property
    def schema(self) -> Schema:
        """What it reads."""
        return self.features.schema

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.network.head.weight.device

    @property
    def version(self) -> int:
        """Deltas that were applied."""
        return self.tables.version

    def score(self, asked: Asked) -> Scored:
        """Logits of all candidates, by one version of the tables.

        Raises:
            ConfigError: evidence or states of another width than the schema's.
        """
        self._require(asked)
        with torch.inference_mode(), self.tables.streaming():
            if self._fused is not None:
                sent = self._fused.send(self.features.of(asked, whole=False))
                with self.tables.reading() as version:
                    both = self._fused(sent)
            else:
                inputs = self.inputs(asked)
                with self.tables.reading() as version:
                    x = self.network(inputs, self.tables)
                both = torch.stack([x, self.network.probability(x)])
            found = both.cpu().numpy()
        return Scored(logits=found[0], probabilities=found[1], version=version)

    def inputs(self, asked: Asked) -> Inputs:
        """What the network is told of requests."""
        return inputs_of(self.features, asked, self._items, self.device)

    def warm_up(self) -> None:
        """Compile what a first request would wait for."""
        schema = self.schema
        self.score(
            Asked(
                users=[None], profiles=[{}], histories=Ragged.of([[0]]), candidates=Ragged.of([[0]]),
                evidence=np.zeros((1, len(schema.evidence)), np.float32),
                state=np.zeros((1, schema.state), np.float32) if schema.state else None,
            )
        )  # fmt: skip

    def _fuse(self) -> Fused | None:
        if self.tables.flat is None:
            return None
        if not Fused.fits(self.network, self.tables):
            log("the ranker's network or tables are too large for its GPU kernels: it runs by torch, in 150 launches")
            return None
        return Fused(self.features, self.network, self.tables, self._items)

    def _require(self, asked: Asked) -> None:
        width = 0 if asked.state is None else asked.state.shape[1]
        if asked.evidence.shape[1] != len(self.schema.evidence) or (self.schema.state and width != self.schema.state):
            raise ConfigError(
                "a ranker was asked with other inputs than it was trained on",
                seen=f"{asked.evidence.shape[1]} numbers of evidence, a state of width {width}",
                allowed=f"{len(self.schema.evidence)} ({', '.join(self.schema.evidence)}) and {self.schema.state}",
                fix="ask with the generator and the recall that it was trained with, or train it again",
            )

    def save(self, directory: Path, *, half: bool = False) -> None:
        """Write all files of the format (docs/concepts/ranking.md); ``half``: tables as float16."""
        told = {"format": FORMAT, "schema": self.schema.to_json(), "network": asdict(self.network.config)}
        (directory / RANKER).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        self.tables.save(directory / TABLES, half=half)
        save_file({name: np.ascontiguousarray(codes) for name, codes in self.vocabularies.items()},
                  directory / VOCABULARIES)  # fmt: skip
        items = self.features.items
        state: dict[str, np.ndarray] = dict(items.numbers)
        for name, ragged in items.texts.items():
            state |= {f"{name}.offsets": ragged.offsets, f"{name}.codes": ragged.values}
        if self.vectors is not None:
            state["vectors"] = self.vectors.astype(np.float32)
        save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, directory / ITEMS)
        save_file(_stored(self.features.relations), directory / RELATIONS)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        save_tensors(weights, directory / NETWORK)

    @classmethod
    def load(cls, directory: Path, *, device: str = "auto", digest: str = "", room: int | None = None) -> Self:
        """Read the files of an artifact or of a bundle's ``ranker/`` whose checksums were verified.

        Args:
            directory: of the files.
            device: where it will answer.
            digest: of the artifact.
            room: bytes on the device for tables, see ``Tables.serve_on``.
        """
        told = json.loads((directory / RANKER).read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise ArtifactError(
                f"{directory} is a ranker of another format",
                seen=told["format"],
                allowed=str(FORMAT),
                fix="train it again with this version",
            )
        on = pick_device(device)
        schema, config = Schema.from_json(told["schema"]), network_config(told["network"])
        vocabularies = load_file(directory / VOCABULARIES)
        columns, vectors = _items(load_file(directory / ITEMS))
        network = RankNetwork(schema, config)
        network.load_state_dict(load_tensors(directory / NETWORK))
        features = Features(schema, columns, vocabularies, _relations(load_file(directory / RELATIONS)))
        tables = Tables.load(directory / TABLES).serve_on(on, room)
        return cls(features, vocabularies, vectors, network.to(on), tables, digest)


def network_config(told: Mapping[str, Any]) -> NetworkConfig:
    """From JSON."""
    return NetworkConfig(**told)


def _items(state: Mapping[str, np.ndarray]) -> tuple[Columns, np.ndarray | None]:
    names = [name.removesuffix(".codes") for name in state if name.endswith(".codes")]
    texts = {name: Ragged(offsets=state[f"{name}.offsets"], values=state[f"{name}.codes"]) for name in names}
    used = {"vectors"} | {f"{name}.{part}" for name in names for part in ("offsets", "codes")}
    numbers = {name: array for name, array in state.items() if name not in used}
    return Columns(texts=texts, numbers=numbers), state.get("vectors")


def _stored(relations: Mapping[str, Relation]) -> dict[str, np.ndarray]:
    state: dict[str, np.ndarray] = {}
    for name, relation in relations.items():
        state |= {f"{name}.offsets": relation.items.offsets, f"{name}.items": relation.items.values}
        state[f"{name}.values"] = relation.values
    return state


def _relations(state: Mapping[str, np.ndarray]) -> dict[str, Relation]:
    return {
        name: Relation(
            items=Ragged(offsets=state[f"{name}.offsets"], values=state[f"{name}.items"]),
            values=state[f"{name}.values"],
        )
        for name in (key.removesuffix(".values") for key in state if key.endswith(".values"))
    }
