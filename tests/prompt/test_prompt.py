import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.errors import CapacityError, ConfigError
from genrecall.prompt.history import HistoryConfig, shown
from genrecall.prompt.prompt import PromptBuilder
from genrecall.prompt.template import Template, load_template
from genrecall.prompt.vocabulary import Vocabulary
from genrecall.sid.space import SidSpace

SPACE = SidSpace((12, 4, 5))
SIDS = np.stack([np.arange(10), np.arange(10) % 4, np.arange(10) % 5], 1).astype(np.int32)
TITLES = [f"red lamp {i}" for i in range(10)]
TEMPLATES = {name: load_template(name) for name in ("compact", "zh", "en")}
TEMPLATES["titled"] = Template(
    name="titled", head="看过：", item="{title} {sid}", joiner="；", tail="下一个？", empty="无"
)
WORDS = [text for template in TEMPLATES.values() for text in template.texts()] + TITLES
VOCABULARY = Vocabulary.scratch(SPACE, [*WORDS, "age 30"])


def builder(name="compact", max_tokens=None, **history) -> PromptBuilder:
    return PromptBuilder(
        VOCABULARY, TEMPLATES[name], HistoryConfig(**history), SIDS, titles=TITLES, max_tokens=max_tokens
    )


def items_in(tokens) -> list[int]:
    """The items whose SIDs a prompt holds, in order."""
    codes = [token for token in tokens if token >= VOCABULARY.first_sid_token]
    return [codes[i] - VOCABULARY.first_sid_token for i in range(0, len(codes), SPACE.levels)]


def test_compact_is_bos_profile_and_sids():
    tokens = builder().encode([3, 1], {"age": "30"})
    sids = [*(VOCABULARY.level_starts + SIDS[3]), *(VOCABULARY.level_starts + SIDS[1])]
    assert tokens == [VOCABULARY.bos, *VOCABULARY.encode("age 30"), *sids]
    assert builder().encode([]) == [VOCABULARY.bos]


def test_the_chinese_prompt_reads_as_asked(bpe):
    vocabulary = Vocabulary.extend(bpe(), SPACE)
    prompts = PromptBuilder(vocabulary, TEMPLATES["zh"], HistoryConfig(), SIDS)
    text = vocabulary.tokenizer.decode(prompts.encode([9, 2], {"gender": "女"}))
    assert text.replace(" ", "") == (
        "用户画像：性别女。用户按时间顺序点击过这些商品：<a_9><b_1><c_4>、<a_2><b_2><c_2>，你预测用户下一个可能点击的商品是？"
    )
    empty = vocabulary.tokenizer.decode(prompts.encode([])).replace(" ", "")
    assert empty == "用户按时间顺序点击过这些商品：（暂无记录），你预测用户下一个可能点击的商品是？"


@pytest.mark.parametrize("name", TEMPLATES)
def test_order_and_length(name):
    history = np.array([5, 1, 5, 2, 7])
    assert items_in(builder(name, max_items=3).encode(history)) == [5, 2, 7]
    assert items_in(builder(name, max_items=3, order="newest_first").encode(history)) == [7, 2, 5]
    assert items_in(builder(name, deduplicate="first").encode(history)) == [5, 1, 2, 7]
    assert items_in(builder(name, deduplicate="last").encode(history)) == [1, 5, 2, 7]


@pytest.mark.parametrize("name", TEMPLATES)
@given(
    history=st.lists(st.integers(0, 9), max_size=12),
    max_items=st.integers(1, 8),
    gap=st.booleans(),
    window=st.one_of(st.none(), st.integers(46, 110)),
)
@settings(max_examples=25, deadline=None)
def test_the_latest_items_stay_and_the_window_holds(name, history, max_items, gap, window):
    prompts = builder(name, max_tokens=window, max_items=max_items, session_gap=gap)
    tokens = prompts.encode(history, times=np.arange(len(history)) // 2)
    written = items_in(tokens)
    wanted = history[-max_items:]
    assert written == wanted[len(wanted) - len(written) :]
    assert prompts.dropped == len(wanted) - len(written)
    if window is not None:
        assert len(tokens) + SPACE.levels - 1 <= window


@pytest.mark.parametrize("name", TEMPLATES)
@given(history=st.lists(st.integers(0, 9), min_size=2, max_size=8), gap=st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_prefix_of_the_body_is_the_body_of_the_prefix(name, history, gap):
    """What lets all prefixes share one row; a separator must not speak of the event that follows."""
    prompts = builder(name, session_gap=gap)
    items, times = np.asarray(history), np.arange(len(history)) // 2
    whole = prompts.body(items, times)
    for n in range(1, len(items)):
        assert (prompts.body(items[:n], times[:n]).tokens == whole.tokens[: whole.end[n - 1]]).all()
        assert (whole.tokens[whole.sid_begin[n] :][: SPACE.levels] == VOCABULARY.level_starts + SIDS[items[n]]).all()


def test_separators_follow_the_first_item_of_a_session():
    tokens = builder(session_gap=True).encode([1, 2, 3], times=np.array([5, 5, 9]))
    assert [i for i, token in enumerate(tokens) if token == VOCABULARY.separator] == [1 + 3 * 3]
    assert VOCABULARY.separator not in builder(session_gap=True).encode([1, 2, 3])


def test_words_longer_than_the_window_are_refused():
    with pytest.raises(CapacityError, match="longer than the model's window"):
        builder("zh", max_tokens=20).encode([1])


def test_titles_and_profiles_write_no_sids():
    template = Template(name="odd", head="<sep>", item="{title} {sid}")
    titles = [f"<a_1><sep>{title}" for title in TITLES]
    prompts = PromptBuilder(VOCABULARY, template, HistoryConfig(), SIDS, titles=titles)
    tokens = prompts.encode([3, 1], {"age": "<b_2><sep>", "country": "<bos>"})
    assert items_in(tokens) == [3, 1]
    assert tokens.count(VOCABULARY.separator) == 1  # the template's own
    assert tokens.count(VOCABULARY.bos) == 1


def test_titles_are_required_where_they_are_shown():
    with pytest.raises(ConfigError, match="titles"):
        PromptBuilder(VOCABULARY, TEMPLATES["titled"], HistoryConfig(), SIDS)


@pytest.mark.parametrize("wrong", [{"order": "random"}, {"deduplicate": "all"}, {"max_items": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ConfigError):
        HistoryConfig(**wrong)


def test_it_comes_back_from_disk(tmp_path):
    prompts = builder("zh", max_tokens=200, max_items=7, order="newest_first")
    prompts.vocabulary.save(tmp_path)
    prompts.save(tmp_path, normalise="trie")
    again = PromptBuilder.load(tmp_path, SIDS)
    assert again.encode([1, 2, 3], {"age": "30"}) == prompts.encode([1, 2, 3], {"age": "30"})
    assert again.settings() == prompts.settings()


@given(st.lists(st.integers(0, 4), max_size=10), st.integers(1, 12))
def test_shown_keeps_what_its_name_says(items, most):
    items = np.asarray(items, dtype=np.int64)
    for rule in ("none", "first", "last"):
        kept = shown(items, HistoryConfig(max_items=most, deduplicate=rule))
        assert len(kept) <= most
        assert (np.diff(kept) > 0).all()
        if rule != "none":
            assert len(set(items[kept].tolist())) == len(kept)


def test_a_search_with_and_without_history(bpe):
    vocabulary = Vocabulary.extend(bpe(), SPACE)
    prompts = PromptBuilder(vocabulary, TEMPLATES["zh"], HistoryConfig(), SIDS)

    def text(*asked, **query) -> str:
        return vocabulary.tokenizer.decode(prompts.encode(*asked, **query)).replace(" ", "")

    assert text([9], query="red lamp") == (
        "用户按时间顺序点击过这些商品：<a_9><b_1><c_4>，用户搜索“redlamp”，你预测用户会点击的商品是？"
    )
    assert text([], {"gender": "女"}, query="lamp") == "用户画像：性别女。用户搜索“lamp”，你预测用户会点击的商品是？"
    assert prompts.encode([9], query=" ") == prompts.encode([9], query=None) == prompts.encode([9])
    spelt = prompts.encode([], query="<a_1><b_1>")
    assert not np.isin(spelt, np.concatenate(vocabulary.sid_tokens)).any()  # a query is words


def test_a_search_shares_the_prefix_of_the_history_and_fits_the_window():
    for name in ("compact", "zh", "en"):
        plain, asked = builder(name).encode([3, 1, 4]), builder(name).encode([3, 1, 4], query="red lamp 7")
        shared = len(builder(name).head()) + len(builder(name).body(np.array([3, 1, 4])).tokens)
        assert plain[:shared] == asked[:shared]
        short = builder(name, max_tokens=100)
        tokens = short.encode(list(range(10)) * 4, query="lamp 7")
        assert len(tokens) + SPACE.levels - 1 <= 100
        assert short.dropped > 0
        assert items_in(tokens)[-1] == 9
        assert len(short.encode([1, 2], query="lamp " * 500)) + SPACE.levels - 1 <= 100


def test_a_template_without_words_for_a_search_says_so():
    with pytest.raises(ConfigError, match="cannot search"):
        builder("titled").encode([1], query="red lamp")
    with pytest.raises(ConfigError, match="name the query once"):
        Template(name="odd", search="find it")
