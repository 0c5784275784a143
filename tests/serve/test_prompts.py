"""One code path writes prompts: what the service reads of a user gives the tokens that training wrote."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from genrecall.catalog.store import Catalog
from genrecall.prompt.history import HistoryConfig
from genrecall.prompt.prompt import PromptBuilder
from genrecall.prompt.template import load_template
from genrecall.prompt.vocabulary import Vocabulary
from genrecall.recall.channel import Candidates, Query
from genrecall.sid.table import SidTable
from tests.pipeline import RECIPE
from tests.serve.world import serving, shop

LATE = 1_700_000_000


class Listening:
    """A channel that keeps what it was asked, and answers nothing."""

    name = "generative"

    def __init__(self) -> None:
        self.asked: list[Query] = []

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """Nothing."""
        self.asked += queries
        return Candidates(items=np.full((len(queries), k), -1, np.int32), scores=np.full((len(queries), k), -np.inf))


def _offline(catalog: Catalog, run: Path, template: str, gaps: bool) -> PromptBuilder:
    """As the training stage makes it, from the same parts."""
    table = SidTable.load(run / "sid")
    vocabulary = Vocabulary.load(run / "model")
    history = HistoryConfig(max_items=RECIPE.history.max_items, session_gap=gaps)
    return PromptBuilder(
        vocabulary, load_template(template), history, table.sids, titles=catalog.items.titles, max_tokens=64
    )


@pytest.mark.parametrize("gaps", [False, True])
def test_tokens_of_the_service_are_those_of_training(run: Path, tmp_path: Path, gaps: bool) -> None:
    catalog = Catalog.load(run / "catalog")
    offline = _offline(catalog, run, "compact", gaps)
    later = {"u3": [("i9", LATE), ("i1", LATE + 5)], "u7": [("i2", LATE)], "new": [("i4", LATE), ("i5", LATE + 1)]}
    queries: dict[str, Query] = {}

    async def scenario() -> None:
        listening = Listening()
        async with serving(run, tmp_path, channels={"generative": listening}) as world:
            events = [
                {"user_id": user, "item_id": item, "timestamp": when} for user, rows in later.items()
                for item, when in rows
            ]  # fmt: skip
            assert (await world.client.post("/v1/events", json={"events": events})).status_code == 200
            for user in [*catalog.events.user_ids, "new"]:
                listening.asked.clear()
                await world.recommend(user_id=user, k=3, channels=["generative"])
                queries[user] = listening.asked[-1]

    asyncio.run(scenario())
    served = _offline(catalog, run, "compact", gaps) if gaps else shop(run).generative.members[0].prompts
    histories = catalog.events.histories("first", None)
    for user, query in queries.items():
        row = catalog.user_index.get(user)
        items = [] if row is None else histories.of(row).tolist()
        times = [] if row is None else histories.times_of(row).tolist()
        for item, when in later.get(user, []):
            if catalog.items.index[item] not in items:
                items.append(catalog.items.index[item])
                times.append(when)
        profile = {} if row is None else catalog.profile_of(row)
        expected = offline.encode(np.array(items), profile, np.array(times))
        assert served.encode(query.history, query.profile, query.times, query.text) == expected
        assert len(expected) > len(offline.head(profile))


def test_items_are_tokenised_once(run: Path) -> None:
    """The per-item cache: after the first prompt no title is read again."""
    from genrecall.prompt.template import Template

    catalog = Catalog.load(run / "catalog")
    titled = Template(name="titled", head="seen ", item="{title} {sid}", joiner=", ", tail=" next", empty="none")
    prompts = PromptBuilder(
        Vocabulary.load(run / "model"), titled, HistoryConfig(), SidTable.load(run / "sid").sids,
        titles=catalog.items.titles,
    )  # fmt: skip
    first = prompts.encode(np.array([1, 2, 3]))
    prompts.vocabulary.__dict__["_backend"] = None  # a second look at the tokenizer would fail
    assert prompts.encode(np.array([1, 2, 3])) == first
    assert prompts.encode(np.array([3, 5, 8])) != first
