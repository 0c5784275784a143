from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file

from genrecall.catalog.items import Items
from genrecall.errors import ConfigError, DependencyError
from genrecall.recall.channel import Channel, Query
from genrecall.recall.lexical import LexicalChannel, LexicalConfig
from genrecall.recall.tokens import item_texts, words

from .contract import COLOURS, NUM_ITEMS, ROUNDS, ChannelContract, ask, checkerboard, rows


def chain() -> list[str]:
    """An item shares one word with the next of its colour, and another with all of its colour; the last are blank."""
    colours = ("red", "blue")
    texts = []
    for item in range(COLOURS * ROUNDS):
        colour, step = colours[item % COLOURS], item // COLOURS
        texts.append(f"{colour} {colour}{step} {colour}{(step + 1) % ROUNDS}")
    return [*texts, "", ""]


class TestLexical(ChannelContract):
    config = LexicalConfig(last=1)

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.file = tmp_path / "state.safetensors"

    def fit(self) -> LexicalChannel:
        return LexicalChannel.fit(chain(), checkerboard().item_counts(NUM_ITEMS), self.config)

    depth = 3  # itself (unless excluded), the next and the one before

    def again(self, channel: Channel) -> Channel:
        assert isinstance(channel, LexicalChannel)
        save_file(channel.state(), self.file)
        return LexicalChannel.from_state(load_file(self.file), channel.config)


class TestAllWords(TestLexical):
    config = LexicalConfig(last=None, terms=None, k1=0.9, b=0.4)


def test_bm25_by_hand() -> None:
    channel = LexicalChannel.fit(["tea cup", "tea tea pot", "milk"], np.zeros(3), LexicalConfig(k1=1.2, b=0.75))
    answer = channel.recall([Query(text="Teas, pot")], 2)
    mean, norm = 2.0, lambda length: 1.2 * (0.25 + 0.75 * length / 2.0)
    tea, pot = np.log(1 + 1.5 / 2.5), np.log(1 + 2.5 / 1.5)
    assert mean == 2.0
    assert rows(answer) == [[1, 0]]
    expected = [tea * 2 / (2 + norm(3)) + pot / (1 + norm(3)), tea / (1 + norm(2))]
    np.testing.assert_allclose(answer.scores[0], expected, rtol=1e-5)


def test_the_history_asks_with_decayed_words() -> None:
    texts = ["tea", "milk", "tea milk", "sugar tea", "sugar milk"]
    channel = LexicalChannel.fit(texts, np.zeros(5), LexicalConfig(decay=0.5, b=0.0))
    assert rows(channel.recall([ask(0, 1, exclude=(0, 1))], 3)) == [[2, 4, 3]]
    assert rows(channel.recall([ask(1, 0, exclude=(0, 1))], 3)) == [[2, 3, 4]]
    assert rows(channel.read_as(replace(channel.config, last=1)).recall([ask(0, 1, exclude=(0, 1, 2))], 1)) == [[4]]
    # A search text is asked alone.
    assert rows(channel.recall([Query(text="sugar", history=np.array([0], np.int32))], 2)) == [[3, 4]]


def test_only_the_strongest_words_are_looked_up() -> None:
    texts = ["common rare", "common", "common", "common", "rare"]
    channel = LexicalChannel.fit(texts, np.zeros(5), LexicalConfig(terms=1))
    answer = channel.recall([ask(0, exclude=(0,))], 4)
    assert rows(answer)[0][0] == 4
    assert answer.scores[0, 1:].tolist() == [0, 0, 0]


def test_chinese_needs_no_spaces() -> None:
    channel = LexicalChannel.fit(["绿茶面膜", "红茶杯", "iPhone手机壳 XL"], np.zeros(3))
    for asked, first in (("面膜", 0), ("红茶", 1), ("杯", 1), ("手机", 2), ("ＩＰＨＯＮＥ", 2), ("膜", 0)):
        answer = channel.recall([Query(text=asked)], 1)
        assert rows(answer) == [[first]]
        assert answer.scores[0, 0] > 0, asked


def test_places_are_those_of_the_lists() -> None:
    channel = LexicalChannel.fit(chain(), checkerboard().item_counts(NUM_ITEMS))
    rng = np.random.default_rng(1)
    queries = [ask(*rng.integers(0, 18, 3), exclude=tuple(rng.integers(-2, 20, 4))) for _ in range(40)]
    targets = rng.integers(0, NUM_ITEMS, 40)
    listed = rows(channel.recall(queries, NUM_ITEMS))
    expected = [row.index(goal) + 1 if goal in row else 0 for row, goal in zip(listed, targets, strict=True)]
    assert channel.places(queries, targets).tolist() == expected


def test_a_catalog_without_words_answers_by_popularity() -> None:
    channel = LexicalChannel.fit(["", "!"], np.array([1, 2]))
    again = LexicalChannel.from_state(channel.state(), channel.config)
    assert rows(again.recall([Query(text="tea"), ask(0)], 2)) == [[1, 0], [1, 0]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Nail Polishes & brushes", ["nail", "polish", "brush"]),
        ("berries glass bus 0.5-ounces", ["berry", "glass", "bus", "0", "5", "ounce"]),
        ("绿茶面膜50g", ["绿茶", "茶面", "面膜", "50g"]),
        ("茶", ["茶"]),
        ("カップ 컵라면", ["カッ", "ップ", "컵라", "라면"]),
        ("Crème CAFÉ_au", ["crème", "café", "au"]),
        ("", []),
    ],
)
def test_words_of_a_text(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_single_characters_are_indexed_but_not_asked() -> None:
    assert words("绿茶面", singles=True) == ["绿茶", "茶面", "绿", "茶", "面"]


def test_all_text_columns_are_read() -> None:
    table = {"item_id": ["1", "2"], "title": ["Tea &amp; milk", None], "brand": ["Acme", None], "source_id": ["x", "y"]}
    assert item_texts(Items(table=pa.table(table))) == ["Tea & milk Acme", " "]


@pytest.mark.parametrize("wrong", [{"k1": -1.0}, {"b": 1.5}, {"terms": 0}, {"decay": 2.0}])
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LexicalConfig(**wrong)


def test_a_missing_bm25s_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(DependencyError, match=r"genrecall\[eval\]"):
        LexicalChannel.fit(["tea"], np.zeros(1))
