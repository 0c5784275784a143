"""Searches that are made up, and their rows among the histories'."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError, DataError
from genrecall.index.trie import Trie
from genrecall.model.sequence import SOFT_ITEMS, SOFT_WEIGHTS
from genrecall.model.trunk import ItemTrunk, TrunkConfig
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.prompt.query_words import QueryWords
from genrecall.sid.space import SidSpace
from genrecall.text.words import words
from genrecall.train.corpus import Pairs
from genrecall.train.queries import HeldOut
from genrecall.train.search import SearchConfig, make_searches, search_rows
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.sequence.data import plan
from genrecall.train.sequence.feed import DeviceFeed, HostFeed
from genrecall.train.sequence.soft import SoftTargets
from genrecall.train.trunk import TrunkLearner
from genrecall.train.trunk_data import sequence_data

SPACE = SidSpace((3, 4))
TITLES = ["red nail polish 10 ml", "hair oil", "oil of roses 3", "blue nail file", "12 34", "mascara"]
TRAIN = Histories.from_lists([[0, 1, 2], [3, 0], [1, 5, 3, 2]])
CONFIG = SearchConfig(share=0.5, per_item=8, personal=0.5, spelled=0.3)
NOBODY = HeldOut()


def prompt_of(window: int = 8) -> ItemPrompt:
    queries = QueryWords.learn(TITLES, pieces=32)
    return ItemPrompt.learn(len(TITLES), SPACE, [{}], window=window, sessions=True, queries=queries)


def test_queries_are_words_of_their_items_title() -> None:
    made = make_searches(TITLES, TRAIN, NOBODY, CONFIG)
    assert len(made) == 8 * 5  # "12 34" says nothing and is not in training either
    for text, item in zip(made.texts, made.items.tolist(), strict=True):
        assert text.split() == [word for word in words(TITLES[item]) if word in text.split()]
        assert any(len(word) > 2 for word in text.split())
    assert made.digest == make_searches(TITLES, TRAIN, NOBODY, CONFIG).digest
    assert {t for t, i in zip(made.texts, made.items, strict=True) if i == 1} <= {"hair oil", "hair", "oil"}
    assert len(set(made.texts)) > 12


def test_evaluation_queries_are_never_made_nor_taken() -> None:
    held = HeldOut(ids=["q9"], texts=["Oils > hair", "mascaras"])
    given = Pairs(
        texts=["hair of oil", "nice polish", "nails"],
        items=np.array([1, 0, 3]),
        query_ids=["", "q9", "q1"],
        users=np.full(3, -1),
    )
    made = make_searches(TITLES, TRAIN, held, CONFIG, given=given)
    assert not {"hair oil", "mascara", "hair of oil", "nice polish"} & set(made.texts)
    assert made.texts[-1] == "nails"
    assert made.left_out > 2
    assert not any(held.holds(text) for text in made.texts)


def test_users_stand_before_searches_for_what_they_took() -> None:
    made = make_searches(TITLES, TRAIN, NOBODY, SearchConfig(personal=1.0, spelled=0.0))
    assert (made.users >= 0).all()
    prompt = prompt_of()
    rows = search_rows(made, TRAIN, prompt, CONFIG).rows
    for number, (user, item) in enumerate(zip(made.users.tolist(), made.items.tolist(), strict=True)):
        row = rows.of(number).tolist()
        past = TRAIN.of(user).tolist()
        split = row.index(prompt.first_query_row)
        assert row[-1] == item
        assert row[:split] == past[: past.index(item)][-split:][:split]
        assert len(row) <= prompt.window + 1
        assert len(set(rows.times_of(number)[split - 1 if split else 0 :].tolist())) == 1


def test_only_the_item_of_a_search_is_asked_and_its_teacher_stands_there() -> None:
    prompt = prompt_of()
    made = make_searches(TITLES, TRAIN, NOBODY, CONFIG)
    told = SoftTargets(
        items=np.stack([made.items, np.arange(len(made)) % 6], 1).astype(np.int32),
        weights=np.full((len(made), 2), 0.4, np.float16),
        digest="",
    )
    own = SoftTargets(items=np.full((9, 1), 5, np.int32), weights=np.full((9, 1), 0.25, np.float16), digest="")
    searches = search_rows(made, TRAIN, prompt, CONFIG, soft=told)
    data = sequence_data(TRAIN, prompt, lambda _: {}, soft=own, turns=searches)
    assert data.drawn == 6  # half of all targets; the histories have 6
    config = SequenceConfig(window=8, lengths=(4,), batch_tokens=32)
    seen: list[int] = []
    for epoch in range(7):
        planned = plan(data, config, epoch)
        for kind in (DeviceFeed, HostFeed):
            feed = kind(data, config, torch.device("cpu"))
            feed.begin(planned)
            asked = {True: 0, False: 0}
            for number in range(len(planned)):
                feed.load(number)
                batch = feed.batch(int(planned.shape[number]))
                is_search = (batch.items >= prompt.first_query_row).any(1)
                for row in torch.nonzero(batch.lengths > 0)[:, 0].tolist():
                    places = torch.nonzero(batch.targets[row] >= 0)[:, 0]
                    search = bool(is_search[row])
                    asked[search] += len(places)
                    assert (batch.targets[row][places] < len(TITLES)).all()
                    if search:
                        assert places.tolist() == [int(batch.lengths[row]) - 1]
                        assert int(batch.extra[SOFT_ITEMS][row, places[0], 0]) == int(batch.targets[row][places[0]])
                        seen.append(int(batch.extra[SOFT_ITEMS][row, places[0], 1]))
                    else:
                        assert batch.extra[SOFT_ITEMS][row, places].tolist() == [[5, 0]] * len(places)
                        assert batch.extra[SOFT_WEIGHTS][row, places].tolist() == [[0.25, 0]] * len(places)
            assert asked == {True: 6, False: 6}
    assert set(seen) == set(range(6))


def test_loss_counts_items_and_reaches_the_words() -> None:
    prompt = prompt_of()
    made = make_searches(TITLES, TRAIN, NOBODY, SearchConfig(personal=0.0, spelled=0.0))
    vectors = np.random.default_rng(0).standard_normal((1 + len(prompt.queries.words), 5)).astype(np.float32)
    searches = search_rows(made, TRAIN, prompt, SearchConfig(share=0.9), word_vectors=vectors)
    data = sequence_data(TRAIN.take(np.array([0])), prompt, lambda _: {}, turns=searches)
    sids = np.array([[0, 0], [0, 1], [1, 0], [1, 2], [2, 3], [2, 0]], np.int32)
    model = ItemTrunk(
        TrunkConfig(width=16, layers=1, depth_layers=1, heads=2, window=8, dropout=0.0, item_dropout=0.99),
        SPACE, sids, prefix_rows=prompt.prefix_rows, prefix_length=1, sessions=True,
    )  # fmt: skip
    before = model.trunk.embed_tokens.weight.clone()
    model.ground(prompt.first_query_row - model.first_prefix, vectors)
    rows = SPACE.num_tokens + prompt.first_query_row - model.first_prefix + np.arange(len(vectors))
    moved = (model.trunk.embed_tokens.weight != before).any(1)
    assert np.flatnonzero(moved.numpy()).tolist() == rows.tolist()
    learner = TrunkLearner(model, Trie.build(SPACE, sids), sids).train()
    config = SequenceConfig(window=8, lengths=(4,), batch_tokens=64)
    planned, feed = plan(data, config, 0), HostFeed(data, config, torch.device("cpu"))
    feed.begin(planned)
    loss = torch.zeros(())
    for number in range(len(planned)):
        feed.load(number)
        batch = feed.batch(int(planned.shape[number]))
        more, asked = learner.loss(batch)
        begins_with_item = int(((batch.lengths > 0) & (batch.items[:, 0] < len(TITLES))).sum())
        assert float(asked) == pytest.approx(planned.targets(number) + learner.start_weight * begins_with_item)
        loss = loss + more
    loss.backward()
    assert torch.isfinite(loss)
    gradient = model.trunk.embed_tokens.weight.grad
    assert gradient is not None
    learnt = [prompt.queries.words.index(word) for word in {word for text in made.texts for word in text.split()}]
    assert (gradient[rows[1:]][learnt].abs().sum(1) > 0).all()


def test_nothing_is_dropped_from_searches() -> None:
    prompt = prompt_of()
    sids = np.array([[0, 0], [0, 1], [1, 0], [1, 2], [2, 3], [2, 0]], np.int32)
    model = ItemTrunk(
        TrunkConfig(width=16, layers=1, depth_layers=1, heads=2, window=8, dropout=0.5, item_dropout=0.0),
        SPACE, sids, prefix_rows=prompt.prefix_rows, prefix_length=1, sessions=True,
    ).train()  # fmt: skip
    search = [*prompt.search("red nail"), 0]
    tokens = torch.tensor([search, [3, 0, 1, 2]])[:, :4]
    asks = (tokens >= model.first_prefix).any(1)
    one, two = (model.hidden(tokens, spared=asks) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])
    codes = torch.tensor([[0], [1]])
    one, two = (model.states(one[:, -1], codes, spared=asks) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])
    again, other = (model.hidden(tokens) for _ in range(2))
    assert not torch.equal(again[0], other[0])  # it is not remembered


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(DataError, match="no search"):
        make_searches(["12", ""], Histories.from_lists([[0, 1]]), NOBODY, CONFIG)
    with pytest.raises(ConfigError, match="searches"):
        SearchConfig(share=1.0)


def test_who_asked_stands_before_a_given_query_where_he_took_the_item() -> None:
    given = Pairs(texts=["shiny nails", "curls"], items=np.array([2, 1]), query_ids=["", ""], users=np.array([2, 1]))
    made = make_searches(TITLES, TRAIN, NOBODY, SearchConfig(personal=1.0), given=given)
    assert made.users[-2:].tolist() == [2, 1]
    prompt = prompt_of(window=20)
    rows = search_rows(made, TRAIN, prompt, SearchConfig(spelled=0.0)).rows
    assert rows.of(len(made) - 2).tolist() == [1, 5, 3, *prompt.search("shiny nails"), 2]
    assert rows.of(len(made) - 1).tolist() == [*prompt.search("curls"), 1]  # user 1 never took item 1
    alone = make_searches(TITLES, TRAIN, NOBODY, SearchConfig(personal=0.0), given=given)
    assert (alone.users == -1).all()
