"""OpenAI's chat completions: the assistant's message is a SID, ``n`` of them are the beam, best first.

``user`` names whose stored history counts. Else the last user message is the history: SIDs (``<a_1><b_2>…``) or a JSON
list of item ids; any other text is a search. Each choice carries its item under ``genrecall``, and its score where
SGLang puts it (``sglext.sequence_score``). ``usage`` counts codes, the only tokens that the gateway knows.
"""

from __future__ import annotations

import re
import time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrecall.serve.dialects.asking import MODELS, answer_all, channels_of, request_of
from genrecall.serve.http.api import json_response
from genrecall.serve.http.body import decoded, raw, require_json, while_connected
from genrecall.serve.problems import Problem
from genrecall.serve.release import Release
from genrecall.serve.schema import MAX_HISTORY, Answer, Id
from genrecall.serve.service import Service

_SID = re.compile(r"(?:<[a-z]{1,2}_\d{1,9}>)+")
_MADE = 0  # a bundle has a digest, not a date


class Message(msgspec.Struct):
    """One message; only texts are read."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Meta(max_length=100_000)]


class Completion(msgspec.Struct):
    """What is read of a request; sampling has no meaning here and is not read."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1, max_length=100)]
    n: Annotated[int, Meta(ge=1, le=1000)] = 10
    user: Id | None = None
    stream: bool = False


class ChatCompletions:
    """Handlers over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """Where they are; single models are answered by the TensorFlow dialect, which has the same address."""
        return [
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
        ]

    async def models(self, request: Request) -> Response:
        """What there is."""
        return json_response({"object": "list", "data": [model_object(name) for name in MODELS]})

    async def complete(self, request: Request) -> Response:
        """Write ``n`` SIDs."""
        require_json(request)
        config = self._service.config
        asked = decoded(await raw(request, config.max_body_bytes, config.body_s), Completion)
        if asked.stream:
            raise Problem("invalid", "stream: SIDs are found together and cannot be streamed")
        release = self._service.releases.pick(asked.user or "")[0]
        history, query = read_prompt(asked, release)
        native = request_of(
            user_id=asked.user if history is None else None,
            history=history,
            query=query,
            k=asked.n,
            channels=channels_of(asked.model),
        )
        answers = await while_connected(request, answer_all(self._service, [native], request.state.request_id))
        return json_response(_completion(asked, answers[0], len(history or []), release.contents.table.space.levels))


def model_object(name: str) -> dict[str, Any]:
    """A model as OpenAI lists it."""
    return {"id": name, "object": "model", "created": _MADE, "owned_by": "genrecall"}


def read_prompt(asked: Completion, release: Release) -> tuple[list[str] | None, str | None]:
    """The history as item ids, or the search text; neither where the last message says nothing.

    Raises:
        Problem: a SID that no item has, or a list that does not hold ids.
    """
    said = [message.content.strip() for message in asked.messages if message.role == "user"]
    text = said[-1] if said else ""
    if not text:
        return None, None
    if text.startswith("["):
        return decoded(text.encode(), Annotated[list[Id], Meta(max_length=MAX_HISTORY)]), None  # type: ignore[arg-type]
    written = _SID.findall(text)
    if not written:
        return None, text[:1000]
    table, ids, history = release.contents.table, release.contents.items.ids, []
    for sid in _split("".join(written), table.space.levels):
        owners = table.items_of.get(tuple(int(code) for code in re.findall(r"_(\d+)>", sid)))
        if owners is None or table.space.format(table.sids[owners[0]].tolist()) != sid:
            raise Problem("invalid", f"no item has the SID {sid[:100]}")
        history.append(ids[owners[0]])
    return history, None


def _split(text: str, levels: int) -> list[str]:
    """A run of codes as SIDs of ``levels`` codes each."""
    codes = re.findall(r"<[a-z]+_\d+>", text)
    if len(codes) % levels:
        raise Problem("invalid", f"SIDs have {levels} codes; {len(codes)} codes were given")
    return ["".join(codes[begin : begin + levels]) for begin in range(0, len(codes), levels)]


def _completion(asked: Completion, answer: Answer, read: int, levels: int) -> dict[str, Any]:
    choices = [
        {
            "index": place,
            "message": {"role": "assistant", "content": item.sid, "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
            "sglext": {"sequence_score": item.sequence_score},
            "genrecall": {
                "item_id": item.item_id,
                "title": item.title,
                "score": item.score,
                "channels": {name: placed.rank for name, placed in item.channels.items()},
                "fallback": item.fallback,
            },
        }
        for place, item in enumerate(answer.items)
    ]
    prompt, written = read * levels, len(choices) * levels
    return {
        "id": f"chatcmpl-{answer.request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "system_fingerprint": answer.versions.bundle,
        "choices": choices,
        "usage": {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written},
        "genrecall": {"coverage": answer.coverage, "versions": answer.versions, "timing_ms": answer.timing_ms},
    }
