"""What alignment may read, and what evaluation keeps to itself."""

import numpy as np
import pyarrow as pa
import pytest

from genrecall.catalog.events import Events
from genrecall.catalog.items import Items
from genrecall.catalog.split import leave_one_out
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError
from genrecall.train.corpus import Pairs, corpus_of
from genrecall.train.mixture import Mixture
from genrecall.train.queries import HeldOut, derived

TITLES = ["Red Lipstick &amp; Gloss", "Blue Nail Polish", "Hair Dryer 2000W", "lipstick red"]
PATHS = ["Beauty > Lips > Lipsticks | Beauty > Gifts", "Beauty > Nails", "Beauty > Hair > Dryers", ""]


def catalog(**more) -> Catalog:
    items = pa.table(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": TITLES,
            "categories": PATHS,
            "description": ["<p>soft</p>", None, "loud", "dry"],
        }
    )
    events = Events(
        user=np.array([0, 0, 0, 0, 1], np.int32), item=np.array([0, 1, 2, 0, 1], np.int32),
        time=np.array([1, 2, 3, 4, 1]), kind=np.zeros(5, np.uint8), user_ids=["u", "v"], timed=True,
        query=np.array([0, 1, 2, 3, -1], np.int32), query_texts=["something red", "polish", "held by time", "again"],
    )  # fmt: skip
    return Catalog(items=Items(table=items), events=events, **more)


def judged(*texts: str) -> dict[str, pa.Table]:
    ids = [f"q{number}" for number in range(len(texts))]
    return {"queries": pa.table({"query_id": ids, "query": list(texts)})}


def corpus(mixture=None, given=None, **more):
    shop = catalog(**more)
    split = leave_one_out(shop.events.histories("keep"))
    return corpus_of(shop, split.train, mixture or Mixture(), given)


def test_texts_are_clean_and_paths_stand_alone():
    texts = corpus().texts
    assert texts["title"][0] == ["Red Lipstick & Gloss"]
    assert texts["categories"] == [["Beauty > Lips > Lipsticks", "Beauty > Gifts"], ["Beauty > Nails"],
                                   ["Beauty > Hair > Dryers"], []]  # fmt: skip
    assert texts["description"] == [["soft"], [], ["loud"], ["dry"]]
    assert "brand" not in texts  # usual, and not there


def test_what_is_judged_by_is_in_no_text_and_no_query():
    found = corpus(
        given=Pairs(
            texts=["nail polish", "Polish!", "hot air", "dryer hair"],
            items=np.array([1, 1, 2, 2]),
            query_ids=["q0", "x", "q1", "y"],
            users=np.full(4, -1),
        ),
        **judged("lips beauty lipstick", "the polish", "red lipsticks"),
    )
    assert found.texts["categories"][0] == ["Beauty > Gifts"]
    assert found.texts["title"] == [["Red Lipstick & Gloss"], ["Blue Nail Polish"], ["Hair Dryer 2000W"], []]
    # By id: q0 and q1. By text: "Polish!" and the log's "polish".
    assert found.pairs.texts == ["something red", "dryer hair"]
    assert found.pairs.items.tolist() == [0, 2]
    assert found.left_out == {"title": 1, "categories": 1, "queries": 4}


def test_queries_of_events_that_are_held_out_are_not_there():
    found = corpus()
    # User u's events 3 and 4 validate and test; the last one is on item a, whose first event trains.
    assert found.pairs.texts == ["something red", "polish"]
    assert found.pairs.users.tolist() == [0, 0]


def test_warm_only_keeps_texts_of_unseen_items_unseen():
    texts = corpus(Mixture(warm_only=True)).texts
    assert [bool(own) for own in texts["title"]] == [True, True, False, False]


def test_the_digest_is_of_what_is_read():
    assert corpus().digest == corpus().digest != corpus(**judged("the polish")).digest


def test_a_column_that_nobody_has_is_a_mistake():
    with pytest.raises(ConfigError, match="texts that the items do not have"):
        corpus(Mixture(shares={"titel_to_sid": 1}))


def test_derived_queries_are_stretches_of_the_title():
    rng, nothing = np.random.default_rng(0), HeldOut()
    asked = {derived("Red Lipstick &amp; Gloss, by ACME", rng, nothing) for _ in range(200)}
    assert {"red lipstick", "gloss by acme", "red lipstick gloss by acme"} <= asked
    chinese = {derived("红色保湿口红 ACME", rng, nothing) for _ in range(500)}
    assert "保湿口红" in chinese
    assert derived("…", rng, nothing) == ""
    assert derived("red lamp", rng, HeldOut(texts=["lamps red"])) == ""


def test_held_out_is_told_by_words():
    held_out = HeldOut(["q1"], ["Lips &amp; Lipsticks", "the of", "红色口红"])
    assert held_out.holds("lipstick LIPS")
    assert held_out.holds("口红 红色")
    assert held_out.holds("anything", "q1")
    assert not held_out.holds("lipstick")
    assert not held_out.holds("of")
    assert not held_out.holds("anything", "q2")
