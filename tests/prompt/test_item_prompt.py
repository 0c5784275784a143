"""Prompts of item models with searches in them."""

from __future__ import annotations

import numpy as np
import pytest

from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.prompt.query_words import MOST_TOKENS, QueryWords
from genrecall.sid.space import SidSpace

TITLES = ["Hair Oil for Curls", "Oil of Roses", "Nail Polishes, Red", "绿茶面膜"]


@pytest.fixture
def prompt() -> ItemPrompt:
    queries = QueryWords.learn(TITLES, pieces=16)
    profiles = [{"country": "UK"}, {"country": "FR"}]
    return ItemPrompt.learn(50, SidSpace((4, 4)), profiles, window=6, sessions=True, queries=queries)


def test_words_are_ranked_and_cut() -> None:
    every = QueryWords.learn(TITLES)
    assert every.words[0] == "oil"
    assert {"polish", "绿茶", "茶面"} <= set(every.words)
    assert QueryWords.learn(TITLES, most=1).words == ("oil",)
    assert QueryWords.learn(TITLES, least=2).words == ("oil",)
    assert every.rows == 1 + len(every.words) + every.pieces


def test_search_stands_last_and_leaves_the_newest_events(prompt: ItemPrompt) -> None:
    asked = prompt.search("red OILS")
    known = prompt.queries
    assert known is not None
    assert asked == [prompt.first_query_row + row for row in (0, 1 + known.words.index("red"), 1)]
    history = np.arange(20)
    tokens = prompt.encode(history, {"country": "UK"}, query="red OILS")
    assert tokens == [*prompt.head({"country": "UK"}), 17, 18, 19, *asked]
    timed = prompt.encode(history, times=np.repeat(np.arange(10), 2), query="red OILS")
    assert timed[2:] == [17, 18 + 50, 19, *asked]
    assert max(tokens) < 2 * 50 + prompt.prefix_rows
    assert prompt.encode(history[:0], query="oil") == [
        *prompt.head(),
        prompt.first_query_row,
        prompt.first_query_row + 1,
    ]


def test_unknown_words_are_spelled_alike_when_they_look_alike(prompt: ItemPrompt) -> None:
    queries = QueryWords.learn(TITLES, pieces=10_000)
    right, typo, other = (set(queries.spelled(word)) for word in ("shampoo", "shampo", "lipstick"))
    assert len(right & typo) >= 4
    assert not right & other
    assert queries.encode("shampoo")[1:] == queries.spelled("shampoo")
    assert queries.encode("茶") == [0, *queries.spelled("茶")]
    assert len(queries.spelled("红茶")) == 2  # a bigram nobody has seen, by its characters
    assert all(row < queries.rows for row in right)


def test_a_search_never_outgrows_the_window(prompt: ItemPrompt) -> None:
    long = " ".join(f"word{n}" for n in range(100))
    assert len(prompt.encode(np.arange(9), query=long)) == len(prompt.head()) + prompt.window
    assert len(QueryWords.learn(TITLES).encode(long)) == MOST_TOKENS


def test_texts_without_words_and_prompts_without_queries_leave_the_history(prompt: ItemPrompt) -> None:
    history = np.arange(3)
    assert prompt.encode(history, query=" ?! ") == prompt.encode(history)
    unknowing = ItemPrompt(num_items=50, codes=(4, 4), window=6)
    assert unknowing.encode(history, query="oil") == unknowing.encode(history)
    assert QueryWords(words=("oil",)).encode("shampoo") == []


def test_saved_prompt_is_the_same(prompt: ItemPrompt, tmp_path) -> None:
    prompt.save(tmp_path)
    again = ItemPrompt.load(tmp_path, 50)
    assert again == prompt
    assert again.encode(np.arange(2), query="rose oil") == prompt.encode(np.arange(2), query="rose oil")
