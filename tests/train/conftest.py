import dataclasses

import numpy as np
import pytest

from genrecall.catalog.histories import Histories
from genrecall.model.backbones import build_scratch
from genrecall.model.config import ModelConfig, ModelSize
from genrecall.prompt.history import HistoryConfig
from genrecall.prompt.prompt import PromptBuilder
from genrecall.prompt.template import load_template
from genrecall.prompt.vocabulary import Vocabulary
from genrecall.sid.space import SidSpace
from genrecall.train.distil import Counts

SPACE = SidSpace((6, 4, 8))
ITEMS = 48
MINI = ModelSize(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=48)
PROFILES = [{}, {"country": "France"}, {"age": "30", "country": "Spain"}]


class World:
    """Users who walk through one of six themes; every theme has its own first code."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        numbers = np.arange(ITEMS)
        self.sids = np.stack([numbers % 6, numbers // 6 % 4, numbers // 24 * 3 + rng.integers(0, 2, ITEMS)], 1)
        self.sids = self.sids.astype(np.int32)
        self.sids[30:36] = self.sids[6:12]  # some SIDs own two items, and their last code is forced
        rows, times = [], []
        for user in range(40):
            start, length = rng.integers(8), rng.integers(1, 20)
            rows.append([int(user % 6 + 6 * ((start + step) % 8)) for step in range(length)])
            times.append([int(step // 2) for step in range(length)])
        self.histories = Histories.from_lists(rows, times)
        self.untimed = dataclasses.replace(self.histories, times=np.arange(len(self.histories.items)), timed=False)
        templates = [load_template(name) for name in ("compact", "zh", "en")]
        words = [text for template in templates for text in template.texts()]
        self.vocabulary = Vocabulary.scratch(SPACE, [*words, "age 30 country France Spain"])

    def prompts(self, template="compact", max_tokens=256, **history) -> PromptBuilder:
        settings = HistoryConfig(**{"max_items": 8, **history})
        return PromptBuilder(self.vocabulary, load_template(template), settings, self.sids, max_tokens=max_tokens)

    def model(self, seed=0):
        return build_scratch(ModelConfig(explicit=MINI, window=256, seed=seed), self.vocabulary.size)

    def teacher(self) -> Counts:
        """Counts of what came next."""
        matrix = np.zeros((ITEMS, ITEMS), dtype=np.float32)
        for user in range(len(self.histories)):
            items = self.histories.of(user)
            np.add.at(matrix, (items[:-1], items[1:]), 1)
        return Counts(matrix=matrix, decay=0.5, session_weight=0.5)

    def profile_of(self, user: int) -> dict[str, str]:
        return PROFILES[user % 3]


@pytest.fixture(scope="session")
def world() -> World:
    return World()
