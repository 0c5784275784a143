"""Reading a request: bounded while it is read, decoded once, and dropped when its client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from genrecall.serve.problems import Problem

T = TypeVar("T")


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


async def raw(request: Request, most: int, within_s: float) -> bytes:
    """The body, refused at the first byte too many.

    Raises:
        Problem: too large, or too slow.
        ClientGoneError: the client went away before it was sent.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise Problem("body_too_large", f"at most {most} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                body += message.get("body", b"")
                if len(body) > most:
                    raise Problem("body_too_large", f"at most {most} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Problem("body_too_slow", f"a body must arrive within {within_s:g} s") from None


def decoded(body: bytes, kind: type[T]) -> T:
    """JSON as a wire type.

    Raises:
        Problem: not JSON, or not of that type; the detail names the place.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise Problem("invalid", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("malformed", str(error) if isinstance(error, msgspec.DecodeError) else "not JSON") from None


def require_json(request: Request) -> None:
    """Refuse forms and texts: a foreign page's browser can send those without asking."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem("not_acceptable_type", "send content-type: application/json")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, and cancel it at once when the client goes away.

    A handler alone would run to its end: the server tells of a drop only to whom receives. The work stays in the
    handler's own task: every task in between would be another turn of a busy loop before the answer leaves.
    """
    task, is_gone = asyncio.current_task(), False
    assert task is not None

    async def watch() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        found = await work
        if is_gone:
            await asyncio.sleep(0)  # where the cancellation arrives that came too late for the work
        return found
    except asyncio.CancelledError:
        if not is_gone:
            raise
        task.uncancel()
        raise ClientGoneError from None
    finally:
        watcher.cancel()
