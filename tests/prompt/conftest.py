import numpy as np
import pytest

from genrecall.sid.space import SidSpace


@pytest.fixture(scope="session")
def bpe():
    """A byte-level BPE tokenizer such as Qwen's, without bos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    texts = [
        "用户按时间顺序点击过这些商品：",
        "你预测用户下一个可能点击的商品是？",
        "red lamp, blue teapot < a _ 1 >",
    ] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    inner.train_from_iterator(texts, trainer)

    def make():
        copy = Tokenizer.from_str(inner.to_str())
        return PreTrainedTokenizerFast(tokenizer_object=copy, eos_token="<|endoftext|>", pad_token="<|endoftext|>")

    return make


@pytest.fixture(scope="session")
def space() -> SidSpace:
    return SidSpace((12, 4, 5))


@pytest.fixture(scope="session")
def sids() -> np.ndarray:
    return np.stack([np.arange(10), np.arange(10) % 4, np.arange(10) % 5], 1).astype(np.int32)
