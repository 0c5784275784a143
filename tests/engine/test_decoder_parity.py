"""Our forward pass against transformers: every family, and the refusal of what it would get wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from genrecall.engine.config import EngineConfig
from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.decoder import Decoder, Suffix
from genrecall.engine.device.weights import read_weights
from genrecall.engine.engine import Engine
from genrecall.errors import ConfigError
from genrecall.index.trie import Trie
from genrecall.kernels.beam_attention import BeamRows
from genrecall.sid.space import SidSpace
from tests.engine.models import MODELS, SIZES, make_model, sid_tokens

CODES = (7, 5, 9)
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_prefill_and_steps_equal_transformers(name):
    model = make_model(name)
    shape = Architecture.read(model)
    tokens_of = sid_tokens(CODES)
    decoder = Decoder(shape, read_weights(model.state_dict(), shape, tokens_of, device=CPU, dtype=torch.float32))
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 20, (n,), generator=generator).tolist() for n in (11, 3, 1)]
    padded = torch.tensor([prompt + [0] * (11 - len(prompt)) for prompt in prompts])
    hidden, prefix = decoder.read(padded, torch.tensor([11, 3, 1]))
    found = decoder.level_logits(hidden, 0)

    # Five beams: two of the first request, none of the second, three of the third, one of which changes its parent.
    owner = torch.tensor([0, 0, 2, 2, 2])
    first = torch.tensor([1, 6, 0, 3, 4])
    rows = BeamRows.of(owner, 3)
    suffix = Suffix(shape.layers, 10, prefix.keys[0])
    after_one, ancestry = decoder.step(
        torch.tensor(tokens_of[0])[first], 1, rows, torch.empty(5, 0, dtype=torch.int64), prefix, suffix
    )
    parent = torch.tensor([1, 1, 2, 4, 4])
    second = torch.tensor([0, 4, 2, 1, 3])
    after_two, _ = decoder.step(torch.tensor(tokens_of[1])[second], 2, rows, ancestry[parent], prefix, suffix)

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
            {**state, "model.layers.0.lora_A": torch.zeros(1)},
            shape,
            sid_tokens(CODES),
            device=CPU,
            dtype=torch.float32,
        )
    del state["model.norm.weight"]
    with pytest.raises(ConfigError, match="lacks"):
        read_weights(state, shape, sid_tokens(CODES), device=CPU, dtype=torch.float32)


def test_tokens_must_fit_the_trie_and_the_vocabulary():
    trie = Trie.build(SidSpace(CODES), np.zeros((1, 3), dtype=np.int32))
    config = EngineConfig(device="cpu")
    with pytest.raises(ConfigError, match="do not fit"):
        Engine(make_model(), trie, sid_tokens((7, 5, 8)), config)
    with pytest.raises(ConfigError, match="vocabulary"):
        Engine(make_model(), trie, [ids + 60 for ids in sid_tokens(CODES)], config)
