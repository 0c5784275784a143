"""Which columns of an item become the text that is embedded, and in which words."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from genrecall.catalog.items import Items
from genrecall.errors import ConfigError, DataError
from genrecall.telemetry import track
from genrecall.text.cleaning import clean

MAX_CHARACTERS = 2000
_IN_ORDER = (
    "title", "brand", r"categor(?:y|ies)(?:_.+)?", "attributes", "genres", "description", "keywords", "terms",
)  # fmt: skip
_EXAMPLES = 5
_CLOSERS = re.compile(r"[)\]}>”’»」』】）］｝〉》\"']*")
_SEPARATOR = re.compile(r"(?:(?![(\[{<“‘«「『【（［｛〈《\"'])[\W_])*")
_STOPS = ".!?;:,。！？；：，、…"


@dataclass(frozen=True)
class _Field:
    """One column with the words around it, which disappear with it: ``before`` + ``label`` value ``after``."""

    before: str
    label: str
    column: str
    after: str


@dataclass(frozen=True, kw_only=True)
class TextTemplate:
    """A sentence with columns in braces, for example ``{title}. {brand}. {categories}``.

    Where a column is empty, its label ("Brand: {brand}"), its brackets ("({brand})") and the punctuation before it are
    left out. Literal braces are doubled.

    Attributes:
        text: the template.
        max_characters: rendered texts are cut here; encoders have limits in tokens of their own.
    """

    text: str
    max_characters: int = MAX_CHARACTERS

    def __post_init__(self) -> None:
        if not self.columns:
            raise self._malformed("no column")

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return [field.column for field in self._fields]

    def render(self, items: Items) -> list[str]:
        """One text for each of I items; an item without any text is an error that names examples."""
        self._require_columns(items)
        values = [items.table[column].to_pylist() for column in self.columns]
        rows: Iterator[tuple[Any, ...]] = zip(*values, strict=True)
        texts = [self.fill([_plain(value) for value in row]) for row in track(rows, "text of items", len(items))]
        if not all(texts):
            raise self._without_text(items, [index for index, text in enumerate(texts) if not text])
        return texts

    def fill(self, values: list[str]) -> str:
        """The sentence for one item's values, given in the order of ``columns``; empty where all values are."""
        written = ""
        for field, value in zip(self._fields, values, strict=True):
            value = clean(value)
            if not value:
                continue
            if written:
                written += _join(written, field.before)
            written += field.label + value + field.after
        if written:
            written += _join(written, self._tail)
        return " ".join(written.split())[: self.max_characters].rstrip()

    @cached_property
    def _parsed(self) -> tuple[list[_Field], str]:
        try:
            pieces = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise self._malformed(str(error)) from None
        fields: list[_Field] = []
        literal = ""
        for words, column, spec, conversion in pieces:
            literal += words
            if column is None:
                continue
            if not column or spec or conversion or not column.strip() == column:
                raise self._malformed(
                    f"{{{column}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}"
                )
            before, label = self._divide(fields, literal)
            fields.append(_Field(before, label, column, ""))
            literal = ""
        before, label = self._divide(fields, literal)
        return fields, before + label

    @staticmethod
    def _divide(fields: list[_Field], literal: str) -> tuple[str, str]:
        """Closing brackets go to the field before, punctuation stands between, words and openers go to the next."""
        if not fields:
            return "", literal
        closers = _match(_CLOSERS, literal)
        last = fields[-1]
        fields[-1] = _Field(last.before, last.label, last.column, closers)
        literal = literal[len(closers) :]
        separator = _match(_SEPARATOR, literal)
        return separator, literal[len(separator) :]

    @property
    def _fields(self) -> list[_Field]:
        return self._parsed[0]

    @property
    def _tail(self) -> str:
        return self._parsed[1]

    def _require_columns(self, items: Items) -> None:
        unknown = [column for column in self.columns if column not in items.table.column_names]
        if unknown:
            raise ConfigError(
                "the text template names columns that the items do not have",
                seen=", ".join(f"{{{column}}}" for column in unknown) + f" in {self.text!r}",
                allowed="columns of the items: " + ", ".join(c for c in items.table.column_names if c != "item_id"),
                fix=f"correct --template, for example --template {default_template(items).text!r}",
            )

    def _without_text(self, items: Items, empty: list[int]) -> DataError:
        names = ", ".join(items.ids[index] for index in empty[:_EXAMPLES])
        leave = "import again with --drop-textless to leave them out, " if items.textless[empty].all() else ""
        return DataError(
            f"{len(empty)} of {len(items)} items have no text",
            seen=f"all of {', '.join(self.columns)} are empty for item_id {names}"
            + (", …" if len(empty) > _EXAMPLES else ""),
            allowed="items with at least one non-empty column of the template",
            fix=f"add columns to --template, fill in the titles, {leave}or give --vectors",
        )

    def _malformed(self, part: str) -> ConfigError:
        return ConfigError(
            "the text template cannot be read",
            seen=f"{part} in {self.text!r}",
            allowed="words with column names in braces, such as {title}. {brand}",
            fix="name each column in single braces, and double the braces that are meant literally",
        )


def default_template(items: Items) -> TextTemplate:
    """Title, brand, categories, attributes, genres, description, keywords and terms, as far as they hold text."""
    columns: list[str] = []
    for pattern in _IN_ORDER:
        for column in items.text_columns:
            if column not in columns and re.fullmatch(pattern, column):
                columns.append(column)
    filled = [column for column in columns if any(items.table[column].to_pylist())]
    # A source without titles has another column mapped to it; saying it twice adds nothing.
    told = [c for c in filled if c == "title" or not items.table[c].equals(items.table["title"])]
    return TextTemplate(text=". ".join(f"{{{column}}}" for column in told or ["title"]))


def _match(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.match(text)
    assert found is not None  # both patterns accept the empty string
    return found.group()


def _join(written: str, separator: str) -> str:
    """The separator, without its punctuation where the text before it already ends in some ("Fin. " + ". ")."""
    bare = separator.lstrip()
    if written[-1] in _STOPS and bare[:1] and bare[0] in _STOPS:
        return bare[1:]
    return separator


def _plain(value: Any) -> str:
    """A cell as text: strings as they are, lists joined by commas, numbers without binary noise (0.85)."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_plain, value)))
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return str(value)
