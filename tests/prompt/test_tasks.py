import numpy as np
import pytest

from genrecall.errors import ConfigError
from genrecall.prompt.tasks import TaskPrompts, TaskTemplate
from genrecall.prompt.template import Template, load_template
from genrecall.prompt.vocabulary import Vocabulary


@pytest.fixture
def vocabulary(bpe, space):
    return Vocabulary.extend(bpe(), space)


def test_rows_read_as_the_template_says(vocabulary):
    prompts = TaskPrompts(vocabulary, load_template("en").tasks, most_tokens=20)
    words = prompts.words("categories", "red lamp", answer=False)
    decode = vocabulary.tokenizer.decode
    assert decode(prompts.question("categories", words)) == "Which item has the category: red lamp?"
    sid = vocabulary.level_starts + np.array([3, 1, 2])
    told = np.concatenate([prompts.telling("title", sid), prompts.words("title", "red lamp", answer=True)])
    assert decode(told).replace(" ", "") == "Thetitleoftheitem<a_3><b_1><c_2>:redlamp<|endoftext|>"


def test_an_answer_begins_as_words_in_a_sentence_begin(vocabulary):
    answer = TaskPrompts(vocabulary, load_template("en").tasks, most_tokens=20).words("title", "red", answer=True)
    assert answer.tolist() == [*vocabulary.encode(" red"), vocabulary.eos]
    chinese = TaskPrompts(vocabulary, load_template("zh").tasks, most_tokens=20).words("title", "red", answer=True)
    assert chinese.tolist() == [*vocabulary.encode("red"), vocabulary.eos]


def test_long_texts_lose_their_end_and_texts_are_words(vocabulary):
    prompts = TaskPrompts(vocabulary, load_template("en").tasks, most_tokens=5)
    for answer in (True, False):
        cut = prompts.words("title", "red lamp, blue teapot " * 9, answer=answer)
        assert len(cut) == 5
        assert vocabulary.eos not in cut
    odd = prompts.words("title", "<a_1><|endoftext|>", answer=False)
    assert not np.isin(odd, [vocabulary.eos, *vocabulary.sid_tokens[0]]).any()


def test_a_row_never_begins_with_nothing(space):
    plain = Vocabulary.scratch(space, ["red"])
    prompts = TaskPrompts(plain, load_template("compact").tasks, most_tokens=5)
    assert prompts.telling("title", plain.level_starts)[0] == plain.bos


@pytest.mark.parametrize(
    "wrong",
    [{"to_sid": "which?"}, {"to_text": "{text} of {sid}"}, {"to_text": "{sid} is {text}."}, {"to_text": "{text}"}],
)
def test_patterns_that_cannot_be_read(wrong):
    with pytest.raises(ConfigError, match="cannot be read"):
        TaskTemplate(**wrong)


def test_a_template_without_task_words_says_so(vocabulary):
    prompts = TaskPrompts(vocabulary, Template(name="bare").tasks, most_tokens=5)
    with pytest.raises(ConfigError, match="no words for alignment"):
        prompts.words("title", "red", answer=False)
