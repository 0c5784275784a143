"""Collaborative vectors from files: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from genrecall.catalog.histories import Histories
from genrecall.errors import ArtifactError, ConfigError, DataError
from genrecall.sid.behaviour import Behaviour
from genrecall.sid.collaborative import CollaborativeConfig

EVENTS = Histories.from_lists([[0, 1, 2], [1, 2, 3], [0, 1]])


def matrix() -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    rows[4] = 0
    return rows


def test_written_and_read_they_are_the_same(tmp_path: Path) -> None:
    given = Behaviour(
        matrix=matrix(), identity={"source": "sasrec", "dim": 3}, histories=EVENTS.digest, catalog="sha256:shop"
    )
    given.write(tmp_path / "b.safetensors")
    read = Behaviour.load(tmp_path / "b.safetensors")
    assert np.array_equal(read.matrix, given.matrix)
    assert (read.identity, read.histories, read.catalog) == (given.identity, given.histories, given.catalog)
    assert read.digest == given.digest
    assert read.known.tolist() == [True] * 4 + [False]


def test_plain_matrices_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", matrix().astype(np.float64))
    save_file({"vectors": matrix()}, tmp_path / "b.safetensors")
    plain, other = Behaviour.load(tmp_path / "b.npy"), Behaviour.load(tmp_path / "b.safetensors")
    assert plain.digest == other.digest
    assert plain.identity == {"source": "file"}
    assert plain.histories == ""


def test_our_own_name_their_events() -> None:
    own = Behaviour.factorised(EVENTS, 5, config=CollaborativeConfig(dim=2))
    assert own.histories == EVENTS.digest
    assert own.known.tolist() == [True, True, True, True, False]


def test_what_is_no_item_matrix_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.ones(4, np.float32))
    np.save(tmp_path / "whole.npy", np.ones((4, 2), int))
    save_file({"other": matrix()}, tmp_path / "other.safetensors")
    (tmp_path / "words.npy").write_text("no matrix")
    for name in ("flat.npy", "whole.npy", "other.safetensors", "words.npy"):
        with pytest.raises(DataError):
            Behaviour.load(tmp_path / name)
    broken = matrix()
    broken[1, 1] = np.nan
    with pytest.raises(DataError, match="no numbers"):
        Behaviour(matrix=broken, identity={})


def test_other_catalogs_and_other_events_are_refused() -> None:
    given = Behaviour(matrix=matrix(), identity={}, histories=EVENTS.digest, catalog="sha256:shop")
    given.require(items=5, catalog="sha256:shop", histories=EVENTS)
    given.require(items=5, catalog="sha256:shop", histories=None)
    with pytest.raises(ArtifactError, match="another catalog"):
        given.require(items=6, catalog="sha256:shop", histories=EVENTS)
    with pytest.raises(ArtifactError, match="another catalog"):
        given.require(items=5, catalog="sha256:other", histories=EVENTS)
    with pytest.raises(ConfigError, match="other events"):
        given.require(items=5, catalog="sha256:shop", histories=EVENTS.last(1))
