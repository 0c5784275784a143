"""Which part of the traffic a request belongs to, so that fill rates can be read where they are low.

    recommend   by the history that the channels read:           cold 0 · short 1–4 · medium 5–19 · long 20 and more
    search      by how often this process saw the text before:   unseen 0 · tail 1–4 · torso 5–49 · head 50 and more

Head, torso and tail as is usual of query logs (Baeza-Yates et al., "The impact of caching on search engines", SIGIR
2007). Deviation: frequencies are those of the newest ``_TEXTS`` different texts of this process, not of a log.
"""

from __future__ import annotations

import bisect
import collections

from genrecall.serve.schema import Recommend, Search

HISTORY = ("cold", "short", "medium", "long")
FREQUENCY = ("unseen", "tail", "torso", "head")
_HISTORY_FROM, _FREQUENCY_FROM = (1, 5, 20), (1, 5, 50)
_TEXTS = 50_000


class Tiers:
    """Counts search texts, as hashes; bounded."""

    def __init__(self) -> None:
        self._seen: collections.OrderedDict[int, int] = collections.OrderedDict()

    def of(self, request: Recommend | Search, history: int) -> str:
        """The tier of a request whose channels read so many events."""
        if not isinstance(request, Search):
            return HISTORY[bisect.bisect_right(_HISTORY_FROM, history)]
        key = hash(" ".join(request.query.lower().split()))
        before = self._seen.pop(key, 0)
        self._seen[key] = before + 1
        if len(self._seen) > _TEXTS:
            self._seen.popitem(last=False)
        return FREQUENCY[bisect.bisect_right(_FREQUENCY_FROM, before)]
