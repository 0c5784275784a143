"""A query as frames carry it, and the processes' entries: what the gateway needs of them, without their imports."""

from __future__ import annotations

import numpy as np

from genrecall.engine.worker.frames import Frame
from genrecall.recall.channel import Query


def query_of(frame: Frame) -> Query:
    """The query in a frame; see ``arrays_of``."""
    return Query(
        history=frame.arrays["history"],
        times=frame.arrays.get("times"),
        exclude=frame.arrays["exclude"],
        profile=frame.head["profile"],
        text=frame.head["text"],
    )


def arrays_of(query: Query) -> dict[str, np.ndarray]:
    """A query's arrays; profile and text go into the head."""
    arrays = {"history": query.history.astype(np.int32), "exclude": query.exclude.astype(np.int32)}
    return arrays if query.times is None else {**arrays, "times": query.times.astype(np.int64)}


def generative(*arguments: str) -> None:
    """The engine's process; see ``generative.main``."""
    from genrecall.serve.worker.generative import main

    main(*arguments)


def classic(*arguments: str) -> None:
    """The classic channels' process; see ``classic.main``."""
    from genrecall.serve.worker.classic import main

    main(*arguments)
