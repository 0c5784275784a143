"""The language model's vocabulary with one token for every code of every SID level.

A SID token has the id ``first_sid_token + flat number of the code`` (the flat order is ``SidSpace``'s), so that the
codes of a level are one contiguous slice of the embedding: training and engine read only that slice.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genrecall.errors import ArtifactError, ConfigError
from genrecall.sid.space import SidSpace

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

FILE = "vocabulary.json"
SEPARATOR = "<sep>"
_SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", SEPARATOR)
# Runs of letters or digits are words, except that Chinese and Japanese, which put no spaces, are read by character.
_WORDS = r"[㐀-鿿豈-﫿぀-ヿ]|[^\W_㐀-鿿豈-﫿぀-ヿ]+|[^\w\s]|_"


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """A tokenizer that knows a SID space.

    Attributes:
        space: the SID layout.
        tokenizer: a HF fast tokenizer that holds every SID token as one special token.
        first_sid_token: id of the first code of level 0; the others follow in flat order.
    """

    space: SidSpace
    tokenizer: PreTrainedTokenizerBase
    first_sid_token: int

    @classmethod
    def scratch(cls, space: SidSpace, texts: Iterable[str] = (), *, max_words: int = 8192) -> Vocabulary:
        """A compact vocabulary for a model without pretraining.

        Args:
            space: the SID layout.
            texts: everything that prompts may say: the template's own words, profile names and values, titles.
            max_words: the most frequent words that get a token; all others are ``<unk>``.
        """
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        splitter = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
        words = sorted(counts, key=lambda word: (-counts[word], word))[:max_words]
        inner = Tokenizer(
            models.WordLevel({word: number for number, word in enumerate((*_SPECIAL, *words))}, unk_token="<unk>")
        )
        inner.normalizer, inner.pre_tokenizer = normalizer, splitter
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
        )
        return cls.extend(tokenizer, space)

    @classmethod
    def extend(cls, tokenizer: PreTrainedTokenizerBase, space: SidSpace) -> Vocabulary:
        """Add the SID tokens (and a separator) to a tokenizer, in place; adding them twice changes nothing.

        Raises:
            ConfigError: the tokenizer is not a fast one, or holds the SID tokens of another space.
        """
        if not tokenizer.is_fast:
            raise ConfigError(
                "this tokenizer cannot take SID tokens",
                seen=type(tokenizer).__name__,
                allowed="a fast tokenizer (one with a tokenizer.json)",
                fix="save the backbone's tokenizer in the fast format",
            )
        from tokenizers import AddedToken

        written = [SEPARATOR, *space.tokens()]
        # A special token is found in the raw text before anything else is split, so no SID is ever cut into pieces.
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in written], True)
        ids = np.asarray(tokenizer.convert_tokens_to_ids(written[1:]))
        if (np.diff(ids) != 1).any():
            raise ConfigError(
                "the tokenizer already holds SID tokens of another space",
                seen=f"{written[1]} is token {ids[0]}, and the ids after it have gaps",
                allowed="a tokenizer without SID tokens, or with exactly those of this space",
                fix="start from the backbone's own tokenizer",
            )
        return cls(space=space, tokenizer=tokenizer, first_sid_token=int(ids[0]))

    @property
    def size(self) -> int:
        """Rows the embedding needs: the largest id + 1."""
        return max(len(self.tokenizer), self.first_sid_token + self.space.num_tokens, self.separator + 1)

    @cached_property
    def sid_tokens(self) -> list[np.ndarray]:
        """For each level, int64 (C,) token ids of its codes; contiguous."""
        first, space = self.first_sid_token, self.space
        return [first + space.offset(level) + np.arange(size) for level, size in enumerate(space.codes)]

    @cached_property
    def level_starts(self) -> np.ndarray:
        """int64 (L,): token id of the first code of each level, so that ``sids + level_starts`` are token ids."""
        return np.asarray([tokens[0] for tokens in self.sid_tokens], dtype=np.int64)

    @property
    def bos(self) -> int | None:
        """Token that opens a sequence, where the tokenizer has one."""
        return self.tokenizer.bos_token_id

    @property
    def eos(self) -> int | None:
        """Token that ends a sequence, where the tokenizer has one."""
        return self.tokenizer.eos_token_id

    @property
    def pad(self) -> int:
        """Token that fills rows; never attended to."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.eos if self.eos is not None else 0)

    @property
    def start(self) -> int:
        """First token of a prompt without any text: bos, else eos, else pad."""
        return next((int(token) for token in (self.bos, self.eos) if token is not None), self.pad)

    @cached_property
    def separator(self) -> int:
        """Token between sessions."""
        return int(np.asarray(self.tokenizer.convert_tokens_to_ids(SEPARATOR)))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with SIDs where it writes SIDs and nothing added."""
        return list(self._backend.encode(text, add_special_tokens=False).ids) if text else []

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of many texts, in parallel."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    @cached_property
    def _backend(self) -> Tokenizer:
        """The tokenizer proper: what transformers puts around it doubles the time of a request's few words."""
        backend: Tokenizer = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return backend

    def literal(self, text: str) -> str:
        """Text of a title or of a profile as mere words: a space breaks what would be a special token."""
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        tokens = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=lambda t: (-len(t), t))))

    def save(self, directory: Path | str) -> None:
        """Write tokenizer and layout."""
        directory = Path(directory)
        self.tokenizer.save_pretrained(directory)
        facts = {"space": list(self.space.codes), "first_sid_token": self.first_sid_token, "size": self.size}
        (directory / FILE).write_text(json.dumps(facts) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path | str) -> Vocabulary:
        """Read what ``save`` wrote.

        Raises:
            ArtifactError: tokenizer and layout do not belong together.
        """
        from transformers import AutoTokenizer

        directory = Path(directory)
        facts = json.loads((directory / FILE).read_text(encoding="utf-8"))
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        vocabulary = cls.extend(tokenizer, SidSpace(tuple(facts["space"])))
        if (vocabulary.first_sid_token, vocabulary.size) != (facts["first_sid_token"], facts["size"]):
            raise ArtifactError(
                f"the tokenizer in {directory} is not the one its {FILE} describes",
                seen=f"first SID token {vocabulary.first_sid_token} of {vocabulary.size}",
                allowed=f"first SID token {facts['first_sid_token']} of {facts['size']}",
                fix="copy the model directory again, or train again",
            )
        return vocabulary
