"""A query as frames carry it, and the processes' entries: what the gateway needs of them, without their imports."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from genrecall.engine.worker.frames import Frame
from genrecall.recall.channel import Barred, Query
from genrecall.serve.config import ServeConfig
from genrecall.serve.lanes import RankAsked, RankListed


def query_of(frame: Frame) -> Query:
    """The query in a frame; see ``arrays_of``."""
    return Query(
        history=frame.arrays["history"],
        times=frame.arrays.get("times"),
        exclude=frame.arrays["exclude"],
        barred=_rule(frame.arrays["barred"].tobytes(), int(frame.arrays["of"][0]))
        if "barred" in frame.arrays
        else None,
        profile=frame.head["profile"],
        text=frame.head["text"],
    )


def arrays_of(query: Query) -> dict[str, np.ndarray]:
    """A query's arrays; profile and text go into the head."""
    arrays = {"history": query.history.astype(np.int32), "exclude": query.exclude.astype(np.int32)}
    if query.barred is not None:
        arrays |= {"barred": query.barred.packed, "of": np.array([len(query.barred.available)], np.int32)}
    return arrays if query.times is None else {**arrays, "times": query.times.astype(np.int64)}


@lru_cache(maxsize=64)
def _rule(packed: bytes, num_items: int) -> Barred:
    """The same for the same bits, so that its requests share what is made of them; about 5 bytes an item."""
    available = np.unpackbits(np.frombuffer(packed, np.uint8), count=num_items) == 0
    available.flags.writeable = False  # so that the engine keeps what it makes of it
    return Barred(available)


def rank_frame(asked: RankAsked) -> Frame:
    """What a ranker is asked, as ``ranking`` reads it."""
    query = asked.query
    head = {
        "user": asked.user_id, "profile": dict(query.profile), "text": query.text,
        "timeout_s": max(asked.budget_s, 1e-6), "deltas": list(asked.deltas),
    }  # fmt: skip
    arrays = arrays_of(replace(query, barred=None)) | {"items": asked.items.astype(np.int32)}
    arrays |= {f"place {name}": places.astype(np.int32) for name, places in asked.places.items()}
    return Frame(
        head=head, arrays=arrays if asked.fused is None else {**arrays, "fused": asked.fused.astype(np.float32)}
    )


def rank_listed(reply: Frame) -> RankListed:
    """What it answered."""
    arrays = reply.arrays
    return RankListed(logits=arrays["logits"], probabilities=arrays["probabilities"], version=reply.head["version"])


def generative(*arguments: str) -> None:
    """The engine's process; see ``generative.main``."""
    from genrecall.serve.worker.generative import main

    main(*arguments)


def gateway(directory: str, config: ServeConfig) -> None:
    """One gateway of several; see ``gateways.member.main``."""
    from genrecall.serve.gateways.member import main

    main(directory, config)


def classic(*arguments: str) -> None:
    """The classic channels' process; see ``classic.main``."""
    from genrecall.serve.worker.classic import main

    main(*arguments)
