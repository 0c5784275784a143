"""Words of a text: what lexical matching compares and search prompts are written in.

    words("New 绿茶面膜 nail polishes") = new 绿茶 茶面 面膜 nail polish

Runs of Chinese, Japanese or Korean script become character bigrams, which match about as well as segmented words and
need no dictionary (Nie, Gao, Zhang & Zhou, "On the use of words and n-grams for Chinese information retrieval",
IRAL 2000); English plurals lose their ending (Harman's S-stemmer, "How effective is suffixing?", JASIS 1991).
Deviation: the single characters of a run are indexed, too, so that a query of one character finds something.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_CJK = "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af"
_RUN = re.compile(f"([{_CJK}]+)|([^\\W_{_CJK}]+)")
_PLURAL = re.compile(r"[a-z]{3,}s")


def words(text: str, *, singles: bool = False) -> list[str]:
    """The words of a text in order, repeats included.

    Args:
        text: any; width, case and compatibility forms are folded.
        singles: give the single characters of longer CJK runs as well (for what is searched, not for queries).
    """
    return list(_words(unicodedata.normalize("NFKC", text).casefold(), singles))


def _words(text: str, singles: bool) -> Iterator[str]:
    for run, word in _RUN.findall(text):
        if word:
            yield _singular(word)
        elif len(run) == 1:
            yield run
        else:
            yield from (run[place : place + 2] for place in range(len(run) - 1))
            if singles:
                yield from run


def _singular(word: str) -> str:
    """An English noun without its plural ending, by three rules; other words as they are."""
    if not _PLURAL.fullmatch(word) or word.endswith(("us", "ss")):
        return word
    if word.endswith("ies"):
        return word if word.endswith(("eies", "aies")) else word[:-3] + "y"
    if word.endswith("es") and word.endswith(("shes", "ches", "sses", "xes", "zes")):
        return word[:-2]
    return word[:-1]
