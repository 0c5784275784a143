"""A generator: an engine with the prompts that it was trained on, whatever the model's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from genrecall.engine.config import EngineConfig
from genrecall.engine.device.shards import Checkpoint
from genrecall.engine.engine import Engine
from genrecall.index.trie import Trie
from genrecall.model import trunk
from genrecall.model.trunk import ItemTrunk
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.prompt.layout import Layout
from genrecall.prompt.prompt import PromptBuilder
from genrecall.sid.table import SidTable


class Prompts(Protocol):
    """What a channel asks of ``PromptBuilder`` and ``ItemPrompt``."""

    @property
    def dropped(self) -> int:
        """Events left out so far because a prompt was longer than the model's window."""
        ...

    def head(self, profile: Mapping[str, str] = ...) -> list[int]:
        """Tokens before the history."""
        ...

    def encode(
        self,
        history: np.ndarray,
        profile: Mapping[str, str] = ...,
        times: np.ndarray | None = ...,
        query: str | None = ...,
    ) -> list[int]:
        """The whole prompt."""
        ...

    def layout(self) -> Layout:
        """What it takes to write the same prompts elsewhere."""
        ...


def open_generator(
    directory: Path, table: SidTable, titles: Sequence[str], config: EngineConfig
) -> tuple[Engine, Prompts]:
    """Read a ``model`` artifact's files for a catalog with these SIDs.

    Args:
        directory: of the model's files.
        table: SIDs of the I items; the model's own, or a table that items were appended to since.
        titles: of the I items.
        config: of the engine.
    """
    trie, prompts = Trie.build(table.space, table.sids), open_prompts(directory, table, titles)
    if isinstance(prompts, ItemPrompt):
        return Engine(ItemTrunk.load(directory, table.sids), trie, prompts.sid_tokens, config), prompts
    return Engine(Checkpoint(directory), trie, prompts.vocabulary.sid_tokens, config), prompts


def open_prompts(directory: Path, table: SidTable, titles: Sequence[str]) -> PromptBuilder | ItemPrompt:
    """The prompts of a ``model`` artifact's files alone, without its weights."""
    if (directory / trunk.CONFIG).is_file():
        return ItemPrompt.load(directory, len(table.sids))
    return PromptBuilder.load(directory, table.sids, titles)
