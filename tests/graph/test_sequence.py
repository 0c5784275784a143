"""BehaviorSequence writes the project's own prompts, bit for bit; so does Python where it stands in."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.prompt.history import HistoryConfig
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.prompt.prompt import PromptBuilder
from genrecall.prompt.template import Template, load_template
from genrecall.prompt.vocabulary import Vocabulary
from genrecall.sid.space import SidSpace

pytestmark = pytest.mark.tf

ITEMS = 12
SPACE = SidSpace((4, 4, 4))
SIDS = np.random.default_rng(0).integers(0, 4, size=(ITEMS, 3)).astype(np.int32)
TITLES = [" ".join(["word"] * (item % 5)) + f" {item}" for item in range(ITEMS)]


def builder(template: Template, *, max_tokens: int | None = None, **history: object) -> PromptBuilder:
    vocabulary = Vocabulary.scratch(SPACE, [*template.texts(), *TITLES])
    config = HistoryConfig(**history)  # type: ignore[arg-type]
    return PromptBuilder(vocabulary, template, config, SIDS, titles=TITLES, max_tokens=max_tokens)


TITLED = dataclasses.replace(load_template("en"), item="{title}: {sid}!")
PROMPTS = {
    "compact": builder(load_template("compact"), max_items=6, session_gap=True, max_tokens=24),
    "first": builder(load_template("compact"), max_items=5, deduplicate="first"),
    "last": builder(load_template("en"), max_items=5, deduplicate="last", session_gap=True),
    "newest": builder(load_template("zh"), max_items=4, order="newest_first", session_gap=True, max_tokens=60),
    "titles": builder(TITLED, max_items=6, session_gap=True, max_tokens=45),
    "items": ItemPrompt(num_items=ITEMS, codes=SPACE.codes, window=5, sessions=True, columns={"sex": ("f", "m")}),
    "plain items": ItemPrompt(num_items=ITEMS, codes=SPACE.codes, window=7),
}
HISTORIES = st.lists(
    st.lists(st.tuples(st.integers(-1, ITEMS), st.integers(0, 5)), max_size=14).map(
        lambda events: sorted(events, key=lambda event: event[1])
    ),
    min_size=1,
    max_size=4,
)


def written(prompts, histories, *, window=None, timed=True, python=False, now=0, monkeypatch=None):
    from genrecall.graph import ops
    from genrecall.graph.runtime import tensorflow

    tf, layout = tensorflow(), prompts.layout()
    splits = np.cumsum([0, *map(len, histories)])
    items, times = (np.array([event[place] for row in histories for event in row], int) for place in (0, 1))
    ragged = tf.RaggedTensor.from_row_splits(tf.constant(items, tf.int32), splits)
    moments = tf.RaggedTensor.from_row_splits(tf.constant(times, tf.int64), splits) if timed else None
    args = (ragged, moments, now, layout, tf.constant(layout.pieces), window or ops.Window())
    if not python:
        return ops.behavior_sequence(*args).to_list()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ops, "compiled", lambda: None)
        return ops.behavior_sequence(*args).to_list()


def expected(prompts, histories, *, timed=True):
    found = []
    for events in histories:
        known = [(item, time) for item, time in events if 0 <= item < ITEMS]
        items, times = (np.array([event[place] for event in known], int) for place in (0, 1))
        found.append(prompts.encode(items, {}, times if timed else None))
    return found


@pytest.mark.parametrize("name", PROMPTS)
@settings(max_examples=120, deadline=None)
@given(histories=HISTORIES, timed=st.booleans())
def test_prompts_are_the_bundles_own(name, histories, timed):
    wanted = expected(PROMPTS[name], histories, timed=timed)
    assert written(PROMPTS[name], histories, timed=timed) == wanted
    assert written(PROMPTS[name], histories[:1], timed=timed, python=True) == wanted[:1]


@settings(max_examples=60, deadline=None)
@given(histories=HISTORIES, window_s=st.integers(1, 6), now=st.integers(0, 9), seed=st.integers(0, 99))
def test_the_window_and_the_order_are_those_of_the_times(histories, window_s, now, seed):
    from genrecall.graph.ops import Window

    rng = np.random.default_rng(seed)
    shuffled = [[row[at] for at in rng.permutation(len(row))] for row in histories]
    ordered = [sorted(row, key=lambda event: event[1]) for row in shuffled]  # stable, as the operator's order
    inside = [[event for event in row if event[1] >= now - window_s] for row in ordered]
    window = Window(window_s=window_s, sort=True)
    wanted = expected(PROMPTS["last"], inside)
    assert written(PROMPTS["last"], shuffled, window=window, now=now) == wanted
    assert written(PROMPTS["last"], shuffled, window=window, now=now, python=True) == wanted


def test_what_does_not_fit_is_refused():
    from genrecall.graph.ops import Window
    from genrecall.graph.runtime import tensorflow

    tf = tensorflow()
    small = builder(load_template("en"), max_tokens=5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="longer than the model's window"):
        written(small, [[(1, 0)]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="needs the times"):
        written(PROMPTS["compact"], [[(1, 0)]], timed=False, window=Window(window_s=3))


def test_a_bundles_histories(run: Path, pieces):
    """Ids, padding and unknown items as the standard graph gets them."""
    from genrecall import Recommender
    from genrecall.graph.runtime import tensorflow

    tf = tensorflow()
    shop = Recommender.load(run / "bundle", device="cpu")
    ids = shop.items.ids
    rng = np.random.default_rng(1)
    rows = [[ids[i] for i in rng.integers(0, len(ids), size)] for size in (0, 1, 7, 30)]
    times = [np.sort(rng.integers(0, 9, len(row))) for row in rows]
    dense = [[*row, "no such item", *[""] * (30 - len(row))] for row in rows]
    moments = [[*row, *[9] * (31 - len(row))] for row in times]
    found = pieces.prompts(pieces.items_of(tf.constant(dense)), tf.constant(moments, tf.int64)).to_list()
    prompts = shop.generative.members[0].prompts
    assert found == [
        prompts.encode(np.array([shop.items.index[i] for i in row], int), {}, moment)
        for row, moment in zip(rows, times, strict=True)
    ]
