"""Mixtures of tasks: what is asked, what is scored, and what must never be seen."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch
from tests.train.conftest import MINI

from genrecall.artifacts import open_artifact
from genrecall.errors import ConfigError, DataError
from genrecall.index.trie import Trie
from genrecall.model.backbones import build_scratch
from genrecall.model.config import ModelConfig
from genrecall.prompt.history import HistoryConfig
from genrecall.prompt.prompt import PromptBuilder
from genrecall.prompt.template import load_template
from genrecall.prompt.vocabulary import Vocabulary
from genrecall.train.alignment import MixedExamples
from genrecall.train.config import TrainConfig
from genrecall.train.corpus import Corpus, Pairs
from genrecall.train.distil import DistilConfig
from genrecall.train.loop import train
from genrecall.train.mixture import Mixture, Task, parse_shares
from genrecall.train.queries import HeldOut
from genrecall.train.supervised import SidLearner, Targets

COLOURS = ("red", "blue", "green", "white", "black", "grey")
THINGS = ("lamp", "chair", "table", "teapot")


class Shop:
    """The world of these tests with titles: colour and thing say the first two codes."""

    def __init__(self, world, template: str) -> None:
        self.world = world
        numbers = [(COLOURS[sid[0]], THINGS[sid[1]], f"no{item}") for item, sid in enumerate(world.sids.tolist())]
        self.titles = [" ".join(words) for words in numbers]
        self.corpus = Corpus(
            texts={
                "title": [[title] for title in self.titles],
                "brand": [[colour] if item % 2 else [] for item, (colour, *_) in enumerate(numbers)],
            },
            pairs=Pairs(texts=["something red"], items=np.array([6]), query_ids=["q"], users=np.array([0])),
        )  # fmt: skip
        self.template = load_template(template)
        words = [*self.template.texts(), *self.template.task_texts(), *self.titles, "something title brand"]
        self.vocabulary = Vocabulary.scratch(world.vocabulary.space, words)
        self.prompts = PromptBuilder(
            self.vocabulary, self.template, HistoryConfig(max_items=8), world.sids, max_tokens=256
        )
        self.trie = Trie.build(world.vocabulary.space, world.sids)

    def config(self, shares, **settings) -> TrainConfig:
        mixture = Mixture(shares=shares, **settings.pop("mixture", {}))
        return TrainConfig(**{
            "epochs": 2, "batch_tokens": 400, "log_every": 1, "dropout": 0.0, "learning_rate": 1e-2, "device": "cpu",
            "precision": "float32", "optimizer": "adamw", "mixture": mixture, **settings,
        })  # fmt: skip

    def examples(self, shares, **settings) -> MixedExamples:
        return MixedExamples(self.prompts, self.world.histories, None, self.config(shares, **settings), self.corpus)

    def model(self):
        return build_scratch(ModelConfig(explicit=MINI, window=256), self.vocabulary.size)

    def learner(self, config) -> SidLearner:
        weight = config.mixture.text_weight
        codes = self.vocabulary.space.codes
        return SidLearner(self.model(), self.vocabulary.level_starts, codes, text_weight=weight)

    def loss(self, examples, plan, rows) -> float:
        targets = Targets(self.trie, self.world.sids, "trie")
        with torch.no_grad():
            inputs = targets.inputs(examples.collate(plan, np.asarray(rows)), torch.device("cpu"))
            return float(self.learner(examples.config).eval()(inputs))


@pytest.fixture(params=["compact", "en"])
def shop(world, request) -> Shop:
    return Shop(world, request.param)


@pytest.fixture
def plain(world) -> Shop:
    return Shop(world, "en")


def text_of(shop, examples, plan, row) -> str:
    written = examples._row(plan, row)
    return shop.vocabulary.tokenizer.decode(written.tokens)


def test_shares_are_kept_and_every_question_comes_before_any_comes_again(plain):
    shares = {"title_to_sid": 2, "sid_to_title": 1, "brand_to_sid": 1}
    examples = plain.examples(shares, mixture={"answers": 120})
    seen = Counter()
    for epoch in range(2):
        plan, groups = examples.plan(epoch)
        drawn = Counter(examples.pools[number].name for number in plan.pool.tolist())
        assert drawn == {"title_to_sid": 60, "sid_to_title": 30, "brand_to_sid": 30}
        assert sorted(np.concatenate(groups).tolist()) == list(range(120))
        titled = plan.pool == [pool.name for pool in examples.pools].index("title_to_sid")
        seen.update(plan.entry[titled].tolist())
    assert set(seen.values()) == {2, 3}  # 120 draws of 48 items
    assert examples.facts()["mixture"]["title_to_sid"] == {"answers": 60, "share": 0.5}
    assert examples.facts()["questions"]["brand_to_sid"] == 24  # every other item has a brand


def test_the_next_item_sets_the_measure(plain):
    examples = plain.examples({"next_item": 0.8, "title_to_sid": 0.2})
    plan, _ = examples.plan(0)
    events = len(plain.world.histories.items)
    assert plan.targets.sum() - len(plan.pool) == events
    assert len(plan.pool) == round(events / 4)


def test_seed_and_epoch_decide(plain):
    shares = {"query_to_sid": 1, "search": 1, "next_item": 1}

    def batch(seed, epoch):
        examples = plain.examples(shares, seed=seed)
        plan, groups = examples.plan(epoch)
        return examples.collate(plan, groups[0]).tokens

    assert np.array_equal(batch(1, 3), batch(1, 3))
    assert not np.array_equal(batch(1, 3), batch(1, 4))
    assert not np.array_equal(batch(1, 3), batch(2, 3))


def test_a_batch_mixes_its_tasks(plain):
    examples = plain.examples({"title_to_sid": 1, "sid_to_title": 1, "query_to_sid": 1})
    plan, groups = examples.plan(0)
    full = [group for group in groups if len(group) > 12]
    assert len(full) > 3
    assert all(len(set(plan.pool[group].tolist())) == 3 for group in full)


def test_rows_read_as_their_tasks_say(plain):
    examples = plain.examples({"title_to_sid": 1, "sid_to_title": 1, "query_to_sid": 1, "search": 1})
    plan, _ = examples.plan(0)
    sid = plain.vocabulary.space.format
    for row, (number, entry) in enumerate(zip(plan.pool.tolist(), plan.entry.tolist(), strict=True)):
        name, text = examples.pools[number].name, text_of(plain, examples, plan, row).replace("<bos> ", "")
        if name == "title_to_sid":
            assert text.startswith(f"which item has the title : {plain.titles[entry]} ?")
        if name == "sid_to_title":
            written = sid(plain.world.sids[entry].tolist())
            assert text.replace(" ", "").startswith(f"thetitleoftheitem{written}:{plain.titles[entry][:3]}")
        if name == "query_to_sid":
            asked = text.removeprefix("the user searches for : ").split(" . ")[0]
            assert asked in [*plain.titles[entry : entry + 1], "something red"] or asked in plain.titles[entry]
        if name == "search":
            assert "the user searches for :" in text
            assert text.startswith("the user clicked these items") or text.startswith("the user searches")


def test_a_search_row_is_the_prompt_that_serves(plain):
    examples = plain.examples({"search": 1})
    pool, histories = examples.pools[0], plain.world.histories
    queries = 0
    for entry in range(0, len(pool), 7):
        row = pool.row(entry, np.random.default_rng(entry))
        event = int(pool._events[entry])
        user = int(histories.rows[event])
        before = histories.items[histories.offsets[user] : event]
        item = int(row.items[0])
        assert item == histories.items[event]
        written = plain.vocabulary.tokenizer.decode(row.tokens).split("searches for : ")[1].split(" . ")[0]
        served = plain.prompts.encode(before, {}, histories.times[histories.offsets[user] : event], written)
        assert row.tokens[: len(served)].tolist() == served
        queries += 1
    assert queries > 20


def test_only_answers_are_scored(shop):
    """The loss of a row is the sum over its own answer's tokens, by hand."""
    examples = shop.examples({"title_to_sid": 1, "sid_to_title": 1}, mixture={"text_weight": 0.5})
    plan, _ = examples.plan(0)
    learner = shop.learner(examples.config).eval()
    for number, name in enumerate(pool.name for pool in examples.pools):
        row = int(np.flatnonzero(plan.pool == number)[0])
        written = examples._row(plan, row)
        item = int(plan.entry[row])
        sid = shop.world.sids[item] + shop.vocabulary.level_starts
        answer = sid if name == "title_to_sid" else written.text_tokens
        tokens = np.append(written.tokens, answer[-1])
        assert tokens[-len(answer) :].tolist() == answer.tolist()
        with torch.no_grad():
            logits = learner.model(torch.from_numpy(tokens)[None]).logits[0]
        expected = 0.0
        for place in range(len(tokens) - len(answer), len(tokens)):
            scores, right = logits[place - 1], int(tokens[place])
            if name == "title_to_sid":
                level = place - (len(tokens) - len(answer))
                node = shop.trie.paths(shop.world.sids[item][None])[0, level]
                codes = np.flatnonzero(shop.trie.children_mask(np.array([node]), level)[0])
                scores = scores[shop.vocabulary.level_starts[level] + codes]
                right = int(np.flatnonzero(codes == shop.world.sids[item][level])[0])
            expected += (0.5 if name == "sid_to_title" else 1.0) * -float(torch.log_softmax(scores, -1)[right])
        assert shop.loss(examples, plan, [row]) == pytest.approx(expected, rel=1e-4)
        if name == "sid_to_title":
            assert answer[-1] == shop.vocabulary.eos
            assert shop.vocabulary.eos not in written.tokens  # the end is asked for, never read


def test_packing_does_not_change_what_a_row_says(shop):
    shares = {"title_to_sid": 1, "sid_to_title": 1, "query_to_sid": 1, "search": 1, "next_item": 1}
    examples = shop.examples(shares)
    plan, groups = examples.plan(0)
    group = max(groups, key=len)[:12]
    alone = sum(shop.loss(examples, plan, [row]) for row in group.tolist())
    assert shop.loss(examples, plan, group) == pytest.approx(alone, rel=1e-4)


def test_no_derived_query_is_one_that_is_judged_by(plain):
    held_out = HeldOut(texts=["Lamps, red", "the blue chair", "no9"])
    corpus = dataclasses.replace(plain.corpus, held_out=held_out)
    examples = MixedExamples(plain.prompts, plain.world.histories, None, plain.config({"query_to_sid": 1}), corpus)
    asked = set()
    for epoch in range(20):
        plan, _ = examples.plan(epoch)
        for row in range(0, len(plan.pool), 3):
            text = text_of(plain, examples, plan, row)
            asked.add(text.split("searches for : ")[1].split(" . ")[0])
    assert len(asked) > 50
    assert not {"red lamp", "blue chair", "no9"} & asked
    assert "red lamp" in plain.titles[0]


def test_it_learns_to_read_and_writes_down_its_mixture(plain, tmp_path):
    config = plain.config({"title_to_sid": 1, "sid_to_title": 1}, epochs=25, batch_tokens=800)
    train(
        plain.model(), plain.prompts, plain.world.histories, out=tmp_path / "model", config=config, trie=plain.trie,
        corpus=plain.corpus,
    )  # fmt: skip
    artifact = open_artifact(tmp_path / "model")
    assert artifact.manifest.config["train"]["mixture"]["shares"] == {"title_to_sid": 1, "sid_to_title": 1}
    assert artifact.manifest.facts["mixture"]["sid_to_title"] == {"answers": 48, "share": 0.5}
    losses = [json.loads(line)["loss"] for line in (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.5 * losses[0]


def test_what_a_catalog_lacks_is_left_out_and_nothing_at_all_is_refused(plain):
    examples = plain.examples({"title_to_sid": 1, "description_to_sid": 1})
    examples.plan(0)
    assert examples.facts()["mixture"] == {"title_to_sid": {"answers": 48, "share": 1.0}}
    with pytest.raises(DataError, match="nothing to align with"):
        plain.examples({"description_to_sid": 1})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"shares": {}}, "shares"), ({"shares": {"title_to_sid": 0}}, "shares"), ({"answers": 0}, "answers"),
        ({"text_weight": 0}, "text_weight"), ({"most_tokens": 0}, "most_tokens"),
        ({"shares": {"titles": 1}}, "no such training task"),
    ],
)  # fmt: skip
def test_mixtures_out_of_range(wrong, said):
    with pytest.raises(ConfigError, match=said):
        Mixture(**wrong)


def test_mixtures_are_read_and_tasks_have_names():
    assert parse_shares("title_to_sid=2, sid_to_title") == {"title_to_sid": 2.0, "sid_to_title": 1.0}
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_shares("title_to_sid=much")
    assert Task.of("sid_to_title") == Task(name="sid_to_title", column="title", to_text=True)
    assert Mixture(shares={"a_b_to_sid": 1, "sid_to_c": 1, "search": 1}).columns == ["a_b", "c"]
    with pytest.raises(ConfigError, match="nothing of other tasks"):
        TrainConfig(mixture=Mixture(), distil=DistilConfig())
