import numpy as np
import pytest
import torch

from genrecall.errors import ArtifactError, ConfigError
from genrecall.model.backbones import build_scratch, digest_of_backbone, load_backbone, load_tokenizer
from genrecall.model.config import SIZES, ModelConfig, ModelSize
from genrecall.model.lora import LoraSettings, add_lora, merge_lora
from genrecall.model.weights import load_model, save_model

VOCAB = 50
NEW = np.arange(VOCAB, VOCAB + 6)


def pretrained(family: str, directory, tied: bool):
    import transformers as hf

    config = getattr(hf, f"{family}Config")(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=64, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(hf, f"{family}ForCausalLM")(config)
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("size", SIZES)
def test_sizes_build_and_seeds_decide(size):
    config = ModelConfig(size=size)
    model = build_scratch(config, 100)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    again = build_scratch(config, 100)
    assert torch.equal(model.model.embed_tokens.weight, again.model.embed_tokens.weight)
    with pytest.raises(ConfigError, match="unknown model size"):
        ModelConfig(size="huge")


def test_it_comes_back_from_disk(tmp_path):
    model = build_scratch(
        ModelConfig(explicit=ModelSize(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=32)), 40
    )
    save_model(model, tmp_path)
    assert sorted(p.suffix for p in tmp_path.iterdir() if p.name.startswith("model")) == [".safetensors"]
    again = load_model(tmp_path)
    tokens = torch.arange(10)[None]
    assert torch.equal(again(tokens).logits, model.eval()(tokens).logits)
    with pytest.raises(ArtifactError, match="no model"):
        load_model(tmp_path / "elsewhere")


@pytest.mark.parametrize(("family", "tied"), [("Qwen2", True), ("Qwen3", True), ("Qwen3", False), ("Llama", False)])
def test_a_grown_backbone_answers_as_before_and_new_rows_are_grounded(tmp_path, family, tied):
    before = pretrained(family, tmp_path, tied).eval()
    grounding = [np.array([1, 2, 3])] * 5 + [np.array([], dtype=np.int64)]
    model = load_backbone(tmp_path, vocab_size=VOCAB + 6, new_tokens=NEW, grounding=grounding, pad_to_multiple=8).eval()
    tokens = torch.tensor([[4, 9, 1, 30]])
    torch.testing.assert_close(model(tokens).logits[..., :VOCAB], before(tokens).logits, rtol=1e-5, atol=1e-6)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        assert table.shape[0] == 56
        deviation = table[:VOCAB].std()
        assert (table[NEW[0]] - table[1:4].mean(0)).abs().max() < deviation
        assert (table[NEW[5]] - table[:VOCAB].mean(0)).abs().max() < deviation
        assert not torch.equal(table[NEW[0]], table[NEW[1]])
    again = load_backbone(tmp_path, vocab_size=VOCAB + 6, new_tokens=NEW, grounding=grounding, pad_to_multiple=8)
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize("tied", [True, False])
def test_lora_trains_sid_rows_and_merges_into_a_plain_model(tmp_path, tied):
    pytest.importorskip("peft")
    pretrained("Qwen3", tmp_path, tied)
    base = load_backbone(tmp_path, vocab_size=VOCAB + 6, new_tokens=NEW)
    kept = base.get_input_embeddings().weight[:VOCAB].detach().clone()
    model = add_lora(base, LoraSettings(rank=2, dropout=0.0), NEW.tolist())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "trainable_tokens" in name for name in trained)
    inner = model.get_base_model()
    tokens = torch.tensor([[4, 50, 1, 55]])
    hidden = inner.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
    table = inner.get_output_embeddings().weight
    (hidden @ table[NEW].T).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in trained.items() if "lora_A" not in n)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    expected = model.eval()(tokens).logits
    plain = merge_lora(model).eval()
    torch.testing.assert_close(plain(tokens).logits, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(plain.get_input_embeddings().weight[:VOCAB], kept)
    save_model(plain, tmp_path / "merged")
    torch.testing.assert_close(load_model(tmp_path / "merged")(tokens).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_backbone_is_its_files_wherever_they_lie(tmp_path):
    def digest(name, **changed):
        (tmp_path / name).mkdir()
        files = {"config.json": "{}", "tokenizer.json": "[]", "model.safetensors": "w", "README.md": "r", **changed}
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        return digest_of_backbone(tmp_path / name)

    first = digest("a")
    assert first.startswith("sha256:")
    assert first == digest("b", **{"README.md": "other"}) == digest_of_backbone(str(tmp_path / "a"))
    others = [digest(f"c{i}", **{name: "x"}) for i, name in enumerate(("config.json", "model.safetensors"))]
    assert len({first, *others}) == 3
    assert digest_of_backbone("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


def test_a_backbone_that_is_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="model cannot be loaded"):
        load_backbone(tmp_path, vocab_size=10, new_tokens=np.arange(8, 10))
    with pytest.raises(ConfigError, match="tokenizer cannot be loaded"):
        load_tokenizer(tmp_path)
