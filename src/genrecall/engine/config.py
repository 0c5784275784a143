"""Settings of the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from genrecall.errors import ConfigError

Normalise = Literal["trie", "level"]
DTYPES = ("auto", "float32", "bfloat16", "float16")
WEIGHTS = ("plain", "fp8", "int8")
PROMPT_KV = ("plain", "fp8")
FORCED = ("auto", "skip", "run")
ALL_REDUCE = ("auto", "library", "one_shot")


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """How much runs and is kept at once, beside rows and prompt tokens. None of it changes answers.

    Attributes:
        requests: the most requests of a batch.
        filters: the most distinct item filters of a batch; None: as many as fit into 512 MB, at most 64.
        widest_beam: wider beams are refused, unless ``max_rows`` is more.
        batch_s: a batch is not filled beyond what is expected to take so many seconds, or twice as long as its first
            request alone.
        patience_s: a request without a deadline is served before later ones once it has waited so long.
        kv_tokens: prompt tokens that are kept on the device; None: what suits model and device.
        host_kv_tokens: prompt tokens that are kept in host memory once the device needs their place; 0: none.
        page_tokens: a page of them; a power of two.
        graphs: CUDA graphs that are kept; 0 captures none.
        catalog_headroom: how many times as many nodes and items a later catalog may have.
    """

    requests: int = 512
    filters: int | None = None
    widest_beam: int = 4096
    batch_s: float = float("inf")
    patience_s: float = 60.0
    kv_tokens: int | None = None
    host_kv_tokens: int = 0
    page_tokens: int = 16
    graphs: int = 512
    catalog_headroom: float = 1.25

    def __post_init__(self) -> None:
        whole = ("requests", "filters", "widest_beam", "kv_tokens", "page_tokens", "catalog_headroom")
        sizes = {name: (getattr(self, name), 1.0) for name in whole}
        sizes |= {name: (getattr(self, name), 1e-9) for name in ("batch_s", "patience_s")}
        for name, (value, least) in sizes.items():
            if value is not None and value < least:
                raise ConfigError(
                    f"the engine's {name} must be positive",
                    seen=value,
                    allowed=f"{least:g} or more",
                    fix=f"raise {name}",
                )
        if self.page_tokens & (self.page_tokens - 1) or self.graphs < 0 or self.host_kv_tokens < 0:
            raise ConfigError(
                "the engine's budgets cannot be used",
                seen=f"page_tokens={self.page_tokens}, graphs={self.graphs}, host_kv_tokens={self.host_kv_tokens}",
                allowed="a power of two; 0 or more graphs; 0 or more tokens",
                fix="correct them",
            )


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How one model is spread over several devices of a host (tensor parallelism).

    Attributes:
        ranks: devices; with N the engine starts N - 1 processes more, on the devices after its own.
        all_reduce: ``library`` (NCCL on GPUs, gloo on CPUs), or ``one_shot``: on GPUs, sums of few bytes by one kernel
            over symmetric memory, which also adds the residual and norms (larger ones still by the library). ``auto``:
            one_shot on GPUs that can write to each other's memory, unless ``batch_invariant``.
        one_shot_bytes: the most that a rank sends to all others for such a sum.
        sequence_tokens: batches that read so many prompt tokens or more are shared by tokens, not by heads, which moves
            a fraction of the bytes, but takes whole weights on every rank beside its part; 2048 suits 2 to 4 GPUs. 0:
            none are.
    """

    ranks: int = 1
    all_reduce: str = "auto"
    one_shot_bytes: int = 1 << 24
    sequence_tokens: int = 0

    def __post_init__(self) -> None:
        least = min(self.ranks, self.one_shot_bytes // 256 // self.ranks, self.sequence_tokens + 1)
        if least < 1 or self.all_reduce not in ALL_REDUCE or (self.sequence_tokens and 8 % self.ranks):
            raise ConfigError(
                "the engine cannot be spread like this",
                seen=f"ranks={self.ranks}, all_reduce={self.all_reduce}, one_shot_bytes={self.one_shot_bytes}, "
                f"sequence_tokens={self.sequence_tokens}",
                allowed=f"1 rank or more; {', '.join(ALL_REDUCE)}; 256 bytes a rank; tokens shared by 2, 4 or 8 ranks",
                fix="correct the setting (--tp for the number of ranks)",
            )


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How answers are computed; none of it but ``normalise`` and the precision changes them.

    Attributes:
        beam: W of requests that name none.
        normalise: softmax over the valid codes of each prefix ("trie") or over all codes of the level ("level", for
            checkpoints trained with a plain loss).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: precision of the linear layers; ``auto`` is bfloat16 on CUDA, float32 on the CPU. Scores are always
            float32.
        weights: what linear layers multiply: ``plain`` (as ``dtype`` says), ``fp8`` (weights and inputs, results in
            bfloat16) or ``int8`` (weights alone).
        prompt_kv: in what keys and values of prompts are kept: ``plain`` (as ``dtype`` says) or ``fp8``, which takes
            half of bfloat16's bytes. What beams add is always plain.
        forced: whether beams whose rest is forced leave the forward pass (``skip``: exact, saves rows, costs one read
            of the device a level, and a graph a level for every number of rows) or not (``run``); ``auto`` skips on
            the CPU, and on one GPU, where the trie forces a tenth of its last codes or more, in batches of one
            request or of many rows; item trunks' levels are too light for it. Under ``normalise="level"`` nothing is
            forced.
        batch_invariant: the same request gets the same bits whatever else is in its batch; slower, because every
            product has the same few rows.
        max_rows: the most beams of a level of a batch; None: what suits model and device.
        max_prompt_tokens: the most prompt tokens that a batch reads.
        budgets: what else bounds a batch, and what is kept.
        parallel: over how many devices the model is spread.
    """

    beam: int = 50
    normalise: Normalise = "trie"
    device: str = "auto"
    dtype: str = "auto"
    weights: str = "plain"
    prompt_kv: str = "plain"
    forced: str = "auto"
    batch_invariant: bool = False
    max_rows: int | None = None
    max_prompt_tokens: int = 16384
    budgets: Budgets = field(default_factory=Budgets)
    parallel: Parallel = field(default_factory=Parallel)

    def __post_init__(self) -> None:
        if self.normalise not in ("trie", "level"):
            raise ConfigError(
                "unknown score normalisation",
                seen=self.normalise,
                allowed="trie, level",
                fix="use the one that the model was trained for; the bundle records it",
            )
        choices = (
            ("precision", self.dtype, DTYPES),
            ("weights", self.weights, WEIGHTS),
            ("prompt_kv", self.prompt_kv, PROMPT_KV),
            ("forced", self.forced, FORCED),
        )
        for name, value, allowed in choices:
            if value not in allowed:
                raise ConfigError(
                    f"unknown engine setting for its {name}",
                    seen=value,
                    allowed=", ".join(allowed),
                    fix="choose another",
                )
        if self.weights == "fp8" and self.dtype not in ("auto", "bfloat16"):
            raise ConfigError(
                "fp8 layers return bfloat16",
                seen=f"dtype={self.dtype}",
                allowed="auto, bfloat16",
                fix="choose another dtype",
            )
        if self.batch_invariant and self.parallel.sequence_tokens:
            raise ConfigError(
                "how a batch is shared by tokens depends on what else is in it",
                seen=f"batch_invariant and sequence_tokens={self.parallel.sequence_tokens}",
                allowed="one of both",
                fix="leave sequence_tokens at 0",
            )
        if self.batch_invariant and self.parallel.all_reduce == "one_shot":
            raise ConfigError(
                "how sums over ranks are rounded depends on how many rows a batch has",
                seen="batch_invariant and all_reduce=one_shot",
                allowed="all_reduce=library, or auto",
                fix="leave one of both out",
            )
        for name in ("beam", "max_rows", "max_prompt_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(
                    f"the engine's {name} must be positive", seen=value, allowed="1 or more", fix=f"raise {name}"
                )
