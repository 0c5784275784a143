"""The generative channel reads a query's text."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from genrecall import Recommender
from genrecall.errors import ConfigError
from genrecall.recall.channel import Query


def test_text_reaches_the_prompt(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Recommender.load(run / "bundle", device="cpu")
    channel, asked = shop.generative, []
    generate = channel.engine.generate
    monkeypatch.setattr(channel.engine, "generate", lambda requests: asked.extend(requests) or generate(requests))
    history = np.array([3], dtype=np.int32)
    found = channel.recall([Query(history=history, text="France"), Query(history=history), Query(text="France")], 4)
    assert (found.items >= 0).all()
    with_text, without, alone = (request.tokens for request in asked)
    word = channel.prompts.vocabulary.encode("France")
    assert with_text == (*without, *word)
    assert alone == (channel.prompts.vocabulary.start, *word)


def test_a_bundle_whose_template_cannot_search_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Recommender.load(run / "bundle", device="cpu").generative
    monkeypatch.setattr(channel.prompts, "template", dataclasses.replace(channel.prompts.template, search=""))
    with pytest.raises(ConfigError, match="cannot search"):
        channel.recall([Query(text="France")], 4)
