"""Words around the alignment tasks: which item has this text, and which text has this item.

A pattern names the whole row, ``The {field} of the item {sid}: {text}``; every piece is tokenised by itself, as in
prompts. A space before ``{text}`` goes to the text, because the words of byte-level tokenizers begin with theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from genrecall.errors import ConfigError
from genrecall.prompt.vocabulary import Vocabulary

_PLACES = {"to_sid": ("{text}",), "to_text": ("{sid}", "{text}")}


@dataclass(frozen=True, kw_only=True)
class TaskTemplate:
    """How texts and SIDs stand side by side.

    Attributes:
        to_sid: a question with the places ``{field}`` and ``{text}``; the SID follows it.
        to_text: the places ``{field}``, ``{sid}`` and, at the end, ``{text}``.
        names: what a column is called in these words; its own name where it is not listed.
    """

    to_sid: str = ""
    to_text: str = ""
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, pattern in (("to_sid", self.to_sid), ("to_text", self.to_text)):
            places = [pattern.find(place) for place in _PLACES[name]]
            once = all(pattern.count(place) == 1 for place in _PLACES[name])
            ends = name == "to_sid" or pattern.endswith("{text}")
            if pattern and not (once and places == sorted(places) and ends):
                raise ConfigError(
                    f"the task pattern {name} cannot be read",
                    seen=pattern,
                    allowed="to_sid with one {text}; to_text with one {sid} and then {text} at its end; both may say "
                    "{field}",
                    fix="write for example to_sid = 'Which item has the {field}: {text}?'",
                )

    def texts(self) -> list[str]:
        """The patterns' own words and the fields' names."""
        return [word for word in (self.to_sid, self.to_text, *self.names.values()) if word]

    def to_sid_of(self, column: str) -> str:
        """The pattern ``to_sid`` with a column's name in it."""
        return self._of("to_sid", self.to_sid, column)

    def to_text_of(self, column: str) -> str:
        """The pattern ``to_text`` with a column's name in it."""
        return self._of("to_text", self.to_text, column)

    def _of(self, name: str, pattern: str, column: str) -> str:
        if not pattern:
            raise ConfigError(
                "this template has no words for alignment",
                seen=f"no {name} under [tasks]",
                allowed="a template with the patterns to_sid and to_text",
                fix="add them to the template file, or use compact, zh or en",
            )
        return pattern.replace("{field}", self.names.get(column, column))


class TaskPrompts:
    """Writes the rows of alignment tasks.

    Args:
        vocabulary: tokens.
        template: words around the text and the SID.
        most_tokens: of a text; what is longer loses its end.
    """

    def __init__(self, vocabulary: Vocabulary, template: TaskTemplate, *, most_tokens: int) -> None:
        self.vocabulary, self.template, self.most_tokens = vocabulary, template, most_tokens
        self._piece = lru_cache(maxsize=256)(lambda text: tuple(vocabulary.encode(text)))

    def words(self, column: str, text: str, *, answer: bool) -> np.ndarray:
        """int64 (n,) tokens of a text as it stands in a question or, closed by the end token, as an answer."""
        pattern = self.template.to_text_of(column) if answer else self.template.to_sid_of(column)
        before = pattern.split("{text}")[0]
        gap = before[len(before.rstrip(" ")) :]
        tokens = self.vocabulary.encode(gap + self.vocabulary.literal(text))
        end = [self.vocabulary.eos] if answer and self.vocabulary.eos is not None else []
        return np.asarray([*tokens, *end] if len(tokens) <= self.most_tokens else tokens[: self.most_tokens], np.int64)

    def question(self, column: str, words: np.ndarray) -> np.ndarray:
        """int64 (T,) the tokens after which the SID of an item with this text is written."""
        before, after = self.template.to_sid_of(column).split("{text}")
        return np.concatenate([self._opening(before), words, self._tokens(after)])

    def telling(self, column: str, sid: np.ndarray) -> np.ndarray:
        """int64 (T,) the tokens after which the text of the item with this SID (token ids, (L,)) is written."""
        before, between = self.template.to_text_of(column).removesuffix("{text}").split("{sid}")
        return np.concatenate([self._opening(before), sid, self._tokens(between.rstrip(" "))])

    def _opening(self, text: str) -> np.ndarray:
        bos, tokens = self.vocabulary.bos, self._tokens(text.rstrip(" "))
        start = [bos] if bos is not None else [] if len(tokens) else [self.vocabulary.start]
        return np.concatenate([np.asarray(start, dtype=np.int64), tokens])

    def _tokens(self, text: str) -> np.ndarray:
        return np.asarray(self._piece(text), dtype=np.int64)
