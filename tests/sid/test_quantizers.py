"""The contract of every quantiser, on vectors with clusters and on vectors that are trouble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrecall.errors import ConfigError
from genrecall.sid.fsq import Fsq, FsqConfig, grid_shape
from genrecall.sid.pq import Pq, PqConfig
from genrecall.sid.quantizer import Quantizer
from genrecall.sid.reconstruction import Reconstruction, reconstruction_error
from genrecall.sid.registry import QUANTIZERS, load_quantizer, quantizer_class, save_quantizer
from genrecall.sid.rq_kmeans import RqKMeans, RqKMeansConfig
from genrecall.sid.rq_vae import RqVae, RqVaeConfig
from tests.sid.clouds import cloud

LEVELS, CODES = 3, 8


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return cloud()


@pytest.fixture(scope="class")
def fitted(request: pytest.FixtureRequest, vectors: np.ndarray) -> Quantizer:
    return request.cls.make().fit(vectors, seed=3)


class QuantizerContract:
    """What may be relied on; a subclass makes the quantiser."""

    @staticmethod
    def make(levels: int = LEVELS, codes: int = CODES) -> Quantizer:
        raise NotImplementedError

    def test_codes_are_in_range(self, fitted: Quantizer, vectors: np.ndarray) -> None:
        codes = fitted.encode(vectors)
        assert codes.dtype == np.int32
        assert codes.shape == (len(vectors), LEVELS)
        assert codes.min() >= 0
        assert codes.max() < CODES

    def test_equal_seeds_give_equal_quantisers(self, fitted: Quantizer, vectors: np.ndarray) -> None:
        torch.manual_seed(99)  # the global state must not matter
        again = self.make().fit(vectors, seed=3)
        assert np.array_equal(again.encode(vectors), fitted.encode(vectors))
        assert all(torch.equal(tensor, again.state()[name]) for name, tensor in fitted.state().items())

    def test_rows_are_encoded_independently(self, fitted: Quantizer, vectors: np.ndarray) -> None:
        assert np.array_equal(fitted.encode(vectors[17:40]), fitted.encode(vectors)[17:40])
        assert fitted.encode(vectors[:0]).shape == (0, LEVELS)

    def test_error_falls_with_levels_and_beats_random_codes(self, fitted: Quantizer, vectors: np.ndarray) -> None:
        codes = fitted.encode(vectors)
        errors = [reconstruction_error(fitted, vectors, codes[:, :level]) for level in range(1, LEVELS + 1)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 0.3
        shuffled = np.random.default_rng(0).permutation(codes)
        assert reconstruction_error(fitted, vectors, shuffled) > 2 * errors[-1]

    def test_one_pass_gives_the_errors_of_every_prefix(self, fitted: Quantizer, vectors: np.ndarray) -> None:
        codes = fitted.encode(vectors)
        sids = codes.copy()
        sids[::3, -1] = (sids[::3, -1] + 1) % CODES
        sids[::12, 0] = 0
        errors = Reconstruction(fitted, codes, sids)
        for rows in fitted.normaliser.chunks(vectors, 37):  # the last step is a short one
            errors.see(rows)
        plain = [reconstruction_error(fitted, vectors, sids[:, :level]) for level in range(1, LEVELS + 1)]
        assert errors.shares()["by_levels"] == pytest.approx(plain, rel=1e-5)
        assert errors.shares()["after"] == errors.shares()["by_levels"][-1]
        assert errors.shares()["before"] == pytest.approx(reconstruction_error(fitted, vectors, codes), rel=1e-5)
        gaps = fitted.normaliser.rows(vectors) - fitted.normaliser.rows(fitted.decode(sids[:, :1]))
        np.testing.assert_allclose(errors.first, gaps.square().sum(1), rtol=1e-4, atol=1e-5)

    def test_what_codes_stand_for_has_mostly_those_codes(self, fitted: Quantizer, vectors: np.ndarray) -> None:
        codes = fitted.encode(vectors)
        assert (fitted.encode(fitted.decode(codes))[:, 0] == codes[:, 0]).mean() > 0.8

    def test_nearest_code_costs_least(self, fitted: Quantizer, vectors: np.ndarray) -> None:
        codes = fitted.encode(vectors)
        for level in range(LEVELS):
            cost = fitted.distances(vectors, codes, level)
            assert cost.shape == (len(vectors), CODES)
            assert (cost.argmin(1) == codes[:, level]).mean() > 0.99

    def test_stored_and_read_it_is_the_same(self, fitted: Quantizer, vectors: np.ndarray, tmp_path: Path) -> None:
        save_quantizer(tmp_path / "q.safetensors", fitted)
        save_quantizer(tmp_path / "again.safetensors", fitted)
        assert (tmp_path / "q.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
        loaded, fusion = load_quantizer(tmp_path / "q.safetensors")
        assert fusion is None
        codes = fitted.encode(vectors)
        assert np.array_equal(loaded.encode(vectors), codes)
        assert np.array_equal(loaded.decode(codes), fitted.decode(codes))

    def test_first_level_is_not_starved(self, fitted: Quantizer, vectors: np.ndarray) -> None:
        assert len(np.unique(fitted.encode(vectors)[:, 0])) == CODES

    @pytest.mark.parametrize("trouble", ["identical", "fewer_items_than_codes", "half_precision", "one_item"])
    def test_degenerate_vectors(self, trouble: str) -> None:
        vectors = {
            "identical": np.ones((20, 4), np.float32),
            "fewer_items_than_codes": cloud(items=5, dim=4),
            "half_precision": cloud(items=50, dim=4).astype(np.float16),
            "one_item": cloud(items=1, dim=4),
        }[trouble]
        fitted = self.make(levels=2).fit(vectors, seed=0)
        codes = fitted.encode(vectors)
        assert np.isfinite(fitted.decode(codes)).all()
        if trouble == "identical":
            assert len(np.unique(codes, axis=0)) == 1
        if trouble == "fewer_items_than_codes":
            assert len(np.unique(codes, axis=0)) == 5


class TestRqKMeans(QuantizerContract):
    @staticmethod
    def make(levels: int = LEVELS, codes: int = CODES) -> Quantizer:
        return RqKMeans(levels=levels, codes=codes, config=RqKMeansConfig(device="cpu"))

    def test_a_sample_is_enough_to_fit(self) -> None:
        vectors = cloud()
        config = RqKMeansConfig(device="cpu", max_fit_items=100)
        fitted = RqKMeans(levels=LEVELS, codes=CODES, config=config).fit(vectors, seed=0)
        assert reconstruction_error(fitted, vectors, fitted.encode(vectors)) < 0.3


class TestRqVae(QuantizerContract):
    @staticmethod
    def make(levels: int = LEVELS, codes: int = CODES) -> Quantizer:
        config = RqVaeConfig(device="cpu", hidden=(16,), latent=8, batch=64, epochs=1, min_steps=30)
        return RqVae(levels=levels, codes=codes, config=config)

    def test_training_improves_on_its_start(self) -> None:
        vectors = cloud()
        errors = []
        for steps in (1, 120):
            config = RqVaeConfig(device="cpu", hidden=(16,), latent=8, batch=64, min_steps=steps, max_steps=steps)
            fitted = RqVae(levels=2, codes=CODES, config=config).fit(vectors, seed=0)
            errors.append(reconstruction_error(fitted, vectors, fitted.encode(vectors)))
        assert errors[1] < errors[0]


class TestRqVaeByGradients(QuantizerContract):
    @staticmethod
    def make(levels: int = LEVELS, codes: int = CODES) -> Quantizer:
        config = RqVaeConfig(
            device="cpu", hidden=(16,), latent=8, batch=64, epochs=1, min_steps=30, updates="gradient", commitment=0.25
        )
        return RqVae(levels=levels, codes=codes, config=config)

    def test_gradients_move_the_codebooks(self) -> None:
        vectors, found = cloud(), []
        for updates in ("average", "gradient"):
            config = RqVaeConfig(
                device="cpu", hidden=(16,), latent=8, batch=64, min_steps=20, epochs=1, updates=updates
            )
            found.append(RqVae(levels=2, codes=CODES, config=config).fit(vectors, seed=0).codebooks.tables)
        assert not torch.allclose(*found)


class TestBalancedRqKMeans(QuantizerContract):
    @staticmethod
    def make(levels: int = LEVELS, codes: int = CODES) -> Quantizer:
        return RqKMeans(levels=levels, codes=codes, config=RqKMeansConfig(device="cpu", balance=1.5))

    def test_no_code_has_more_than_its_share(self) -> None:
        skewed = np.concatenate([cloud(items=240), np.repeat(cloud(items=240)[:10], 24, 0)])
        skewed[240:] += 0.1 * cloud(items=240, seed=1)
        most = {}
        for balance in (None, 1.2):
            config = RqKMeansConfig(device="cpu", balance=balance)
            fitted = RqKMeans(levels=2, codes=CODES, config=config).fit(skewed, seed=0)
            codes = fitted.encode(skewed)
            most[balance] = max(np.bincount(codes[:, level], minlength=CODES).max() for level in range(2))
        mean = len(skewed) / CODES
        assert most[1.2] <= 1.2 * mean < 1.6 * mean < most[None]


class TestFsq(QuantizerContract):
    @staticmethod
    def make(levels: int = LEVELS, codes: int = CODES) -> Quantizer:
        return Fsq(levels=levels, codes=codes, config=FsqConfig(device="cpu", values=4, hidden=(16,), min_steps=60))

    def test_first_level_is_not_starved(self, fitted: Quantizer, vectors: np.ndarray) -> None:
        # No codebook adapts to the items, so a corner of the grid may stay empty.
        assert len(np.unique(fitted.encode(vectors)[:, 0])) >= CODES - 2

    def test_training_improves_on_the_axes_and_keeps_the_codes_in_use(self, vectors: np.ndarray) -> None:
        errors, used = [], []
        for epochs in (0, 1):
            config = FsqConfig(device="cpu", values=4, hidden=(16,), epochs=epochs, min_steps=150)
            fitted = Fsq(levels=2, codes=16, config=config).fit(vectors, seed=0)
            codes = fitted.encode(vectors)
            errors.append(reconstruction_error(fitted, vectors, codes))
            used.append(len(np.unique(codes[:, 0])))
        assert errors[1] < 0.8 * errors[0]
        assert used[1] >= 8

    def test_axes_alone_give_back_their_own_codes(self, vectors: np.ndarray) -> None:
        fitted = Fsq(levels=LEVELS, codes=CODES, config=FsqConfig(device="cpu", epochs=0)).fit(vectors, seed=0)
        every = np.stack(np.unravel_index(np.arange(CODES**LEVELS), (CODES,) * LEVELS), 1)
        assert np.array_equal(fitted.encode(fitted.decode(every)), every)

    def test_shapes_multiply_to_the_codes(self) -> None:
        assert grid_shape(256, 8) == (8, 8, 4)
        assert grid_shape(240, 8) == (8, 6, 5)
        assert grid_shape(1, 8) == (1,)
        with pytest.raises(ConfigError, match="so many codes"):
            grid_shape(34, 8)


class TestPq(QuantizerContract):
    @staticmethod
    def make(levels: int = LEVELS, codes: int = CODES) -> Quantizer:
        return Pq(levels=levels, codes=codes, config=PqConfig(device="cpu"))

    def test_a_rotation_explains_more_than_a_cut_through_the_input(self, vectors: np.ndarray) -> None:
        found = {}
        for rotation in ("axes", "opq"):
            config = PqConfig(device="cpu", rotation=rotation)
            fitted = Pq(levels=LEVELS, codes=CODES, config=config).fit(vectors, seed=0)
            found[rotation] = reconstruction_error(fitted, vectors, fitted.encode(vectors))
        assert found["opq"] < found["axes"]

    @pytest.mark.parametrize("config", [{"whiten": 1.0}, {"dim": 7}, {"whiten": 0.5, "rotation": "axes"}], ids=str)
    def test_what_is_decoded_lies_nearer_than_chance(self, vectors: np.ndarray, config: dict[str, Any]) -> None:
        fitted = Pq(levels=LEVELS, codes=CODES, config=PqConfig(device="cpu", **config)).fit(vectors, seed=0)
        codes = fitted.encode(vectors)
        error = reconstruction_error(fitted, vectors, codes)
        assert error < 0.6
        assert error < reconstruction_error(fitted, vectors, np.random.default_rng(0).integers(0, CODES, codes.shape))


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden": (16, 0)}, {"latent": 0}, {"epochs": 0}, {"min_steps": -1}, {"max_steps": 0}, {"batch": 0},
        {"learning_rate": 0.0}, {"weight_decay": -0.1}, {"commitment": -1.0}, {"decay": 1.0}, {"revive_below": -1.0},
        {"kmeans_steps": 0}, {"max_fit_items": 0}, {"normalise": "row"}, {"latent": float("nan")},
        {"updates": "luck"}, {"alignment_weight": -1.0}, {"alignment_temperature": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_senseless_rq_vae_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        RqVaeConfig(**wrong)
    ((name, value),) = wrong.items()
    assert name in refused.value.what
    assert refused.value.seen == repr(value)
    assert refused.value.allowed
    assert name in refused.value.fix


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"balance": 1.0}, {"max_fit_items": 0}, {"normalise": "row"}], ids=str)
def test_senseless_k_means_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RqKMeansConfig(**wrong)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (FsqConfig, {"values": 1}), (FsqConfig, {"epochs": -1}), (FsqConfig, {"hidden": (0,)}), (PqConfig, {"dim": 0}),
        (PqConfig, {"whiten": 2.0}), (PqConfig, {"rotation": "luck"}), (PqConfig, {"rounds": 0}),
    ],
    ids=str,
)  # fmt: skip
def test_senseless_product_settings_are_refused(kind: type, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        kind(**wrong)


def test_unknown_quantiser_is_refused() -> None:
    with pytest.raises(ConfigError, match="rq_kmeans"):
        quantizer_class("vq")


def test_every_quantiser_is_held_to_the_contract() -> None:
    assert {kind.make().name for kind in QuantizerContract.__subclasses__()} == set(QUANTIZERS)
