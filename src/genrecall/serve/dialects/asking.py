"""Several requests of one call: each is a request of its own, and they are counted as such."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from genrecall.serve.problems import Problem
from genrecall.serve.schema import Answer, Recommend, Search
from genrecall.serve.service import Service

MAX_REQUESTS = 64
MODELS: dict[str, list[str] | None] = {"pipeline": None, "generator": ["generative"]}
"""Names that these dialects know models by, with the channels behind them (None: as the bundle says)."""


def channels_of(model: str) -> list[str] | None:
    """Channels behind a model's name.

    Raises:
        Problem: no such model.
    """
    if model not in MODELS:
        raise Problem("not_found", f"no model {model[:100]}; there are {', '.join(MODELS)}")
    return MODELS[model]


async def answer_all(service: Service, requests: Sequence[Recommend | Search], request_id: str) -> list[Answer]:
    """Answers in order; all at once, so that they share batches.

    Raises:
        Problem: none, or too many.
    """
    if not 1 <= len(requests) <= MAX_REQUESTS:
        raise Problem("invalid", f"1 to {MAX_REQUESTS} requests a call, not {len(requests)}")
    names = [request_id] if len(requests) == 1 else [f"{request_id}-{n}" for n in range(len(requests))]
    return list(await asyncio.gather(*(service.answer(r, name) for r, name in zip(requests, names, strict=True))))


def request_of(
    *,
    user_id: str | None = None,
    history: Sequence[str] | None = None,
    query: str | None = None,
    k: int = 10,
    channels: list[str] | None = None,
    deadline_ms: int | None = None,
) -> Recommend | Search:
    """A native request, held to the native bounds.

    Raises:
        Problem: outside of them.
    """
    optional = {"user_id": user_id, "history": history, "channels": channels, "deadline_ms": deadline_ms}
    told: dict[str, object] = {"k": k, **{name: value for name, value in optional.items() if value is not None}}
    try:
        if query is None:
            return msgspec.convert(told, Recommend)
        return msgspec.convert({**told, "query": query}, Search)
    except msgspec.ValidationError as error:
        raise Problem("invalid", str(error)) from None
