import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrecall.errors import ArtifactError, ConfigError
from genrecall.prompt.vocabulary import Vocabulary
from genrecall.sid.space import SidSpace


@pytest.fixture(params=["scratch", "extended"])
def vocabulary(request, bpe, space):
    if request.param == "scratch":
        return Vocabulary.scratch(space, ["红色 台灯 country France", "用户画像：国家"])
    return Vocabulary.extend(bpe(), space)


def test_written_sids_become_exactly_their_tokens(vocabulary, space):
    flat = np.concatenate(vocabulary.sid_tokens)
    assert (flat == vocabulary.first_sid_token + np.arange(space.num_tokens)).all()
    assert [len(tokens) for tokens in vocabulary.sid_tokens] == list(space.codes)
    text = "点击过" + space.format((11, 0, 4)) + "," + space.format((1, 3, 0)) + "x"
    encoded = [token for token in vocabulary.encode(text) if token >= vocabulary.first_sid_token]
    assert encoded == (vocabulary.level_starts + np.array([[11, 0, 4], [1, 3, 0]])).flatten().tolist()
    assert vocabulary.size > flat.max()


def test_words_of_users_are_never_special_tokens(vocabulary):
    tokenizer = vocabulary.tokenizer
    text = f"lamp <a_1><b_2> <sep><sep>{tokenizer.eos_token}<a_<a_11>3>"
    special = set(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id}
    assert special & set(vocabulary.encode(text))
    assert not special & set(vocabulary.encode(vocabulary.literal(text)))
    assert vocabulary.literal("red <3 lamp <a_12> <b 1> a_1") == "red <3 lamp <a_12> <b 1> a_1"


def test_it_comes_back_from_disk(vocabulary, tmp_path):
    vocabulary.save(tmp_path)
    again = Vocabulary.load(tmp_path)
    assert again.size == vocabulary.size
    assert (again.level_starts == vocabulary.level_starts).all()
    for text in ("红色台灯 France <a_1><b_2>", "你预测用户下一个", "<sep>"):
        assert again.encode(text) == vocabulary.encode(text)
    assert (again.bos, again.eos, again.pad, again.start) == (
        vocabulary.bos, vocabulary.eos, vocabulary.pad, vocabulary.start,
    )  # fmt: skip


def test_a_model_beside_the_tokenizer_does_not_change_how_it_reads(tmp_path, bpe, space):
    """transformers picks tokenizer classes by model type; ours must stay what was saved."""
    vocabulary = Vocabulary.extend(bpe(), space)
    vocabulary.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    text = "red lamp, 用户点击过这些商品：<a_3> 1234"
    assert Vocabulary.load(tmp_path).encode(text) == vocabulary.encode(text)


def test_compact_words_are_known_and_others_are_one_unknown(space):
    vocabulary = Vocabulary.scratch(space, ["age 25 gender M", "画像"])
    known = vocabulary.encode("Gender: m, AGE 25 画")
    assert len(set(known)) == 7 - 1  # ":" and "," are both unknown
    assert vocabulary.tokenizer.unk_token_id in known
    assert vocabulary.bos is not None
    assert vocabulary.start == vocabulary.bos


def test_extending_twice_changes_nothing_and_another_space_is_refused(bpe, space):
    tokenizer = bpe()
    first = Vocabulary.extend(tokenizer, space)
    assert Vocabulary.extend(tokenizer, space).first_sid_token == first.first_sid_token
    with pytest.raises(ConfigError, match="another space"):
        Vocabulary.extend(tokenizer, SidSpace((14, 4, 5)))


def test_a_foreign_layout_file_is_refused(tmp_path, space):
    Vocabulary.scratch(space, ["a b c"]).save(tmp_path)
    facts = json.loads((tmp_path / "vocabulary.json").read_text())
    (tmp_path / "vocabulary.json").write_text(json.dumps({**facts, "first_sid_token": 2}))
    with pytest.raises(ArtifactError, match="not the one"):
        Vocabulary.load(tmp_path)


@given(texts=st.lists(st.text(max_size=30), max_size=4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_texts_at_once_are_read_as_one_by_one_and_as_transformers_reads_them(vocabulary, texts):
    singly = [vocabulary.encode(text) for text in texts]
    assert vocabulary.encode_many(texts) == singly
    assert singly == [list(vocabulary.tokenizer.encode(text, add_special_tokens=False)) for text in texts]
