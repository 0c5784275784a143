"""Text as shops store it, made readable: entities, mark-up, style sheets, control characters, spaces."""

from __future__ import annotations

import html
import re

_COMMENT = re.compile(r"<!--.*?(?:-->|$)", re.DOTALL)
_BLOCK = re.compile(r"<(style|script)\b.*?(?:</\1\s*>|$)", re.DOTALL | re.IGNORECASE)
# "<3" and "a < b" are text: a tag begins with a letter, right after the bracket.
_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*(?:\s[^<>]*)?/?>")
# What is left of style sheets where only the tags were removed: `.APlusHeader, p {font-size: 15px; …}`.
_CSS_RULE = re.compile(r"(?:(?<![\w.#-])[.#][\w-]+\s*,\s*)*(?:(?<![\w.#-])[@.#]?[\w-]+\s*)?\{\s*[\w-]+\s*:[^{}]*\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028\u2029\u2060\ufeff\ufffd]+")
_SPACE = re.compile(r"\s+")


def clean(text: str) -> str:
    """Plain text on one line."""
    if "&" in text:
        text = html.unescape(html.unescape(text))  # catalogs exported twice hold &amp;amp;
    if "<" in text:
        text = _TAG.sub(" ", _BLOCK.sub(" ", _COMMENT.sub(" ", text)))
    if "{" in text:
        text = _CSS_RULE.sub(" ", text)
    return _SPACE.sub(" ", _CONTROL.sub(" ", text)).strip()
