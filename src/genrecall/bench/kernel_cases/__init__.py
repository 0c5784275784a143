"""The workload of a decoding step and of a ranker, kernel by kernel, with what each of them cannot do without.

``rank_sum`` is not among them: it takes a GPU a rank, so that ``genrecall bench engine --tp`` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from genrecall.bench.kernel_cases import attention, layer, ranker, trie
from genrecall.bench.kernel_cases.case import Case, RankerWorkload, Workload
from genrecall.errors import ConfigError

__all__ = ["Case", "RankerWorkload", "Workload", "cases"]


def cases(
    work: Workload, ranks: RankerWorkload, device: torch.device, dtype: torch.dtype, only: tuple[str, ...] = ("",)
) -> Iterator[Case]:
    """Cases whose names begin with one of ``only``, built group after group: one set of inputs is alive at a time."""
    generator = torch.Generator(device=device).manual_seed(0)

    def rand(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32).to(kind)

    groups: dict[tuple[str, ...], Callable[[], Iterator[Case]]] = {
        ("attend_beams", "attend_prompts"): partial(attention.attention, work, rand, device),
        ("rms_norm", "rms_norm_fp8", "rotary_store", "swiglu", "swiglu_fp8"): partial(
            layer.elementwise, work, rand, device
        ),
        ("fp8_linear", "int8_linear", "level_logits"): partial(layer.products, work, rand),
        ("trie_select",): partial(trie.selection, work, rand, device),
        ("node_mask",): partial(trie.filters, work, device),
        ranker.NAMES: partial(ranker.ranker, ranks, device),
    }
    known = [name for names in groups for name in names]
    if not any(name.startswith(only) for name in known):
        raise ConfigError(
            "no kernel has such a name",
            seen=", ".join(only),
            allowed="beginnings of " + ", ".join(known),
            fix="correct --only, or leave it out",
        )
    for names, group in groups.items():
        if any(name.startswith(only) for name in names):
            for case in group():
                assert case.name in names, "a group says what is in it"
                if case.name.startswith(only):
                    yield case
