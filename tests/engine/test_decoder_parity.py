"""Our forward pass against transformers: every family, and the refusal of what it would get wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from genrecall.engine.config import EngineConfig
from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.arithmetic import Plain
from genrecall.engine.device.batch import Batch, BatchShape, pack
from genrecall.engine.device.decoder import BeamRows, Decoder, PromptRows
from genrecall.engine.device.shards import Held
from genrecall.engine.device.weights import read_weights
from genrecall.engine.engine import Engine
from genrecall.engine.host.step import Kind, Seat, StepPlan
from genrecall.errors import ConfigError
from genrecall.index.trie import Trie
from genrecall.kernels.rows import RowRanges
from genrecall.sid.space import SidSpace
from tests.engine.models import MODELS, SIZES, make_model, sid_tokens

CODES = (7, 5, 9)
CPU = torch.device("cpu")
PAGE = 4


def packed(prompts: list[list[int]], cached: list[int], pages: list[list[int]]) -> tuple[torch.Tensor, Batch]:
    """A batch of prompts of which some tokens are in pages already."""
    seats = tuple(
        Seat(job=index, length=len(prompt), cached=known, pages=tuple(held), rows=(1,) * len(CODES))
        for index, (prompt, known, held) in enumerate(zip(prompts, cached, pages, strict=True))
    )
    plan = StepPlan(kind=Kind.SEARCH, catalog=0, seats=seats)
    shape = BatchShape.of(plan.sizes)
    flat = torch.zeros(shape.size, dtype=torch.int32)
    none = [-1] * len(prompts)
    slots = np.arange(12 * PAGE, dtype=np.int32).reshape(-1, PAGE)
    pack(plan, plan.sizes, prompts, none, none, [2**31 - 1] * len(prompts), slots, flat.numpy())
    batch = Batch.view(flat, shape, torch.arange(9, dtype=torch.int32))
    return batch.tokens, batch


def beams(owner: list[int], ancestry: list[list[int]], batch: Batch) -> BeamRows:
    counts = torch.bincount(torch.tensor(owner), minlength=len(batch.prompts.length)).int()
    begin = torch.cat([torch.zeros(1, dtype=torch.int32), torch.cumsum(counts, 0, dtype=torch.int32)])
    return BeamRows(
        ranges=RowRanges(begin=begin, count=counts),
        request=torch.tensor(owner),
        ancestry=torch.tensor(ancestry, dtype=torch.int32),
        table=batch.prompts.table,
        length=batch.prompts.length,
        widest=4,
    )


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_prefill_and_steps_equal_transformers(name):
    model = make_model(name)
    shape = Architecture.read(model)
    tokens_of = sid_tokens(CODES)
    weights = read_weights(
        Held(model.state_dict()), shape, tokens_of, device=CPU, dtype=torch.float32, arithmetic=Plain()
    )
    decoder = Decoder(shape, weights, Plain())
    decoder.allocate(pages=12, page_tokens=PAGE, prompt_dtype=torch.float32, suffix_rows=10, requests=4)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 20, (n,), generator=generator).tolist() for n in (11, 3, 1)]
    pages = [[3, 1, 2], [5], [4]]
    # The first eight tokens of the first prompt were read before.
    decoder.read(*_prompt_rows(packed([prompts[0][:8]], [0], [pages[0][:2]])))
    tokens, batch = packed(prompts, [8, 0, 0], pages)
    reading = decoder.read(tokens, batch.prompts)
    found = decoder.level_logits(reading.hidden, 0)

    # Five beams: two of the first request, none of the second, three of the third, one of which changes its parent.
    owner = [0, 0, 2, 2, 2]
    first = torch.tensor([1, 6, 0, 3, 4])
    after_one = decoder.step(torch.tensor(tokens_of[0])[first].int(), beams(owner, [[row] for row in range(5)], batch))
    parent = torch.tensor([1, 1, 2, 4, 4])
    second = torch.tensor([0, 4, 2, 1, 3])
    ancestry = [[int(parent[row]), 5 + row] for row in range(5)]
    after_two = decoder.step(torch.tensor(tokens_of[1])[second].int(), beams(owner, ancestry, batch))

    def expected(written, level):
        logits = model(input_ids=torch.tensor([written]), use_cache=False).logits[0, -1]
        return logits[torch.tensor(tokens_of[level])]

    for index, prompt in enumerate(prompts):
        torch.testing.assert_close(found[index], expected(prompt, 0), atol=2e-5, rtol=1e-4)
    for row in range(5):
        prompt = prompts[owner[row]]
        one = [*prompt, int(tokens_of[0][first[row]])]
        torch.testing.assert_close(decoder.level_logits(after_one, 1)[row], expected(one, 1), atol=2e-5, rtol=1e-4)
        two = [*prompt, int(tokens_of[0][first[parent[row]]]), int(tokens_of[1][second[row]])]
        torch.testing.assert_close(decoder.level_logits(after_two, 2)[row], expected(two, 2), atol=2e-5, rtol=1e-4)


def _prompt_rows(made: tuple[torch.Tensor, Batch]) -> tuple[torch.Tensor, PromptRows]:
    return made[0], made[1].prompts


def test_rotary_frequencies_survive_a_cast_of_the_model():
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, hidden_size=32, num_attention_heads=2, num_key_value_heads=1))
    exact = Architecture.read(model).inverse_frequency
    assert torch.equal(Architecture.read(model.to(torch.bfloat16)).inverse_frequency, exact)


def test_other_families_and_settings_are_refused():
    heads = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    sliding = Qwen3Config(**SIZES, **heads, head_dim=8, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    gelu = LlamaConfig(**SIZES, **heads, hidden_act="gelu")
    dynamic = LlamaConfig(
        **SIZES, **heads, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    )
    refused = [
        (GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=64)), "family"),
        (Qwen3ForCausalLM(sliding), "attention"),
        (LlamaForCausalLM(gelu), "activation"),
        (LlamaForCausalLM(dynamic), "rotary"),
    ]
    for model, reason in refused:
        with pytest.raises(ConfigError, match=reason):
            Architecture.read(model)


def test_unknown_and_missing_weights_are_refused():
    model = make_model()
    shape = Architecture.read(model)
    state = model.state_dict()
    with pytest.raises(ConfigError, match="does not know"):
        read_weights(
            Held({**state, "model.layers.0.lora_A": torch.zeros(1)}),
            shape,
            sid_tokens(CODES),
            device=CPU,
            dtype=torch.float32,
            arithmetic=Plain(),
        )
    del state["model.norm.weight"]
    with pytest.raises(ConfigError, match="lacks"):
        read_weights(Held(state), shape, sid_tokens(CODES), device=CPU, dtype=torch.float32, arithmetic=Plain())


def test_tokens_must_fit_the_trie_and_the_vocabulary():
    trie = Trie.build(SidSpace(CODES), np.zeros((1, 3), dtype=np.int32))
    config = EngineConfig(device="cpu")
    with pytest.raises(ConfigError, match="do not fit"):
        Engine(make_model(), trie, sid_tokens((7, 5, 8)), config)
    with pytest.raises(ConfigError, match="vocabulary"):
        Engine(make_model(), trie, [ids + 60 for ids in sid_tokens(CODES)], config)
