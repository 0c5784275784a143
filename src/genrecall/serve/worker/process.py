"""The worker process: opens one bundle, batches what waits, answers over the socket that it inherited.

One thread reads frames, so that cancellations arrive while a batch runs; the main thread computes. What only this
process suffers from (no memory, a broken kernel) ends it, and the gateway starts another; it ends with the gateway.
"""

from __future__ import annotations

import collections
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrecall.bundle.load import Recommender
from genrecall.engine.config import Parallel
from genrecall.errors import GenrecallError
from genrecall.recall.generative import GenerativeChannel
from genrecall.serve.worker import frames
from genrecall.serve.worker.messages import (
    Ask,
    Beat,
    Cancel,
    Failed,
    Found,
    Opened,
    Outward,
    decode_inward,
    encode,
    traced,
)

BEAT_S = 0.25
_TARGET_BATCH_S = 0.05
_NOTHING = np.empty(0, np.int32)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Waiting:
    ask: Ask
    since: float


class Worker:
    """Answers what arrives on a connection.

    Args:
        shop: the bundle, loaded.
        connection: to the gateway.
        batch_rows: beams that one batch takes; None: as many as take about 50 ms.
    """

    def __init__(self, shop: Recommender, connection: socket.socket, batch_rows: int | None = None) -> None:
        self.shop, self.connection = shop, connection
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._changed = threading.Condition()
        self._send_lock = threading.Lock()
        self._batches = 0
        base_s, row_s = self._measure()
        self.batch_rows = batch_rows or int(np.clip((_TARGET_BATCH_S - base_s) / row_s, 32, 4096))
        self.opened = Opened(
            digest=shop.digest,
            device=str(shop.generative.members[0].engine.device),
            base_s=base_s,
            row_s=row_s,
            batch_rows=self.batch_rows,
            reads_search=shop.reads_search("a"),
        )

    def run(self) -> None:
        """Answer until the gateway goes away."""
        threading.Thread(target=self._listen, name="frames", daemon=True).start()
        self._send(self.opened)
        while True:
            batch = self._take()
            self._send(Beat(self._batches, len(self._waiting), [w.ask.number for w in batch]))
            if batch:
                self._answer(batch)
                self._batches += 1

    def _listen(self) -> None:
        while True:
            body = frames.receive(self.connection)
            if body is None:
                os._exit(0)  # the gateway is gone: nobody can be answered
            message = decode_inward(body)
            with self._changed:
                if isinstance(message, Cancel):
                    self._waiting = collections.deque(w for w in self._waiting if w.ask.number != message.number)
                else:
                    self._waiting.append(_Waiting(ask=message, since=time.monotonic()))
                    self._changed.notify()

    def _take(self) -> list[_Waiting]:
        """The next batch, oldest first; empty where nothing came within a beat."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(BEAT_S)
            batch: list[_Waiting] = []
            late: list[_Waiting] = []
            rows = 0
            while self._waiting and (not batch or rows + self._waiting[0].ask.beam <= self.batch_rows):
                first = self._waiting.popleft()
                if time.monotonic() - first.since >= first.ask.budget_s:
                    late.append(first)
                    continue
                batch.append(first)
                rows += first.ask.beam
        for waiting in late:
            self._send(Failed(waiting.ask.number, "deadline", "its time was over before it was read"))
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        started = time.monotonic()
        cold = [waiting for waiting in batch if self._is_cold(waiting.ask)]
        warm = [waiting for waiting in batch if waiting not in cold]
        for waiting in cold:
            self._send(Found(waiting.ask.number, b"", b"", started - waiting.since, 0.0, 0, cold=True))
        for part in (
            [waiting for waiting in warm if not waiting.ask.trace],
            *([waiting] for waiting in warm if waiting.ask.trace),
        ):
            if part:
                try:
                    self._search(part, started)
                except GenrecallError as error:
                    for waiting in part:
                        self._send(Failed(waiting.ask.number, "error", error.what))

    def _search(self, part: list[_Waiting], started: float) -> None:
        asks = [waiting.ask for waiting in part]
        queries = [ask.query() for ask in asks]
        beams = [ask.beam for ask in asks]
        channel = self.shop.generative
        begun = time.monotonic()
        if isinstance(channel, GenerativeChannel):
            answers = channel.answer(queries, 1, trace=asks[0].trace, beams=beams)
            lists = [channel.expand(a, q, ask.k) for a, q, ask in zip(answers, queries, asks, strict=True)]
            levels = [traced(answer.levels) for answer in answers]
        else:
            found = channel.recall(queries, max(ask.k for ask in asks), beams=beams)
            lengths = [min(ask.k, int((row >= 0).sum())) for ask, row in zip(asks, found.items, strict=True)]
            rows = zip(lengths, found.items, found.scores, strict=True)
            lists = [(items[:n].tolist(), scores[:n].tolist()) for n, items, scores in rows]
            levels = [None] * len(asks)
        ran_s = time.monotonic() - begun
        for waiting, (items, scores), level in zip(part, lists, levels, strict=True):
            self._send(
                Found(
                    waiting.ask.number,
                    np.asarray(items, "<i4").tobytes(),
                    np.asarray(scores, "<f4").tobytes(),
                    started - waiting.since,
                    ran_s,
                    sum(beams),
                    levels=level,
                )
            )

    def _is_cold(self, ask: Ask) -> bool:
        """Nothing is known that the prompt could show: the model would only repeat its prior."""
        prompts = self.shop.generative.members[0].prompts
        told = bool(ask.profile) and prompts.head(ask.profile) != prompts.head()
        return not ask.history and not told and not ask.text

    def _measure(self) -> tuple[float, float]:
        """Base and row time of a batch, by running a small and a larger one."""
        beam = min(self.shop.generative.members[0].config.beam, len(self.shop.items))
        history = np.arange(min(8, len(self.shop.items)), dtype="<i4").tobytes()
        ask = Ask(0, history, None, b"", {}, None, 10, beam, False, 1.0)
        times = []
        for requests in (1, 1, 4, 4):  # the first of each size pays for what is only done once
            begun = time.monotonic()
            self.shop.generative.recall([ask.query()] * requests, 10, beams=[beam] * requests)
            times.append(time.monotonic() - begun)
        row_s = max((times[3] - times[1]) / (3 * beam), 1e-7)
        return max(times[1] - row_s * beam, 1e-6), row_s

    def _send(self, message: Outward) -> None:
        with self._send_lock:
            try:
                self.connection.sendall(frames.packed(encode(message)))
            except (BrokenPipeError, ConnectionResetError):
                os._exit(0)


def main(arguments: list[str]) -> None:
    """``process FD BUNDLE DEVICE THREADS BATCH_ROWS BEAM SPARE RANKS``; 0 stands for automatic.

    A spare imports everything and then waits for a first frame: imports are nearly all of the time that starting takes.
    """
    import torch

    descriptor, bundle, device, threads, batch_rows, beam, spare, ranks = arguments
    if int(threads):
        torch.set_num_threads(int(threads))
    connection = socket.socket(fileno=int(descriptor))
    if int(spare):
        _import_models(Path(bundle))
        if frames.receive(connection) is None:
            return
    shop = Recommender.load(bundle, device=device, beam=int(beam) or None, parallel=Parallel(ranks=int(ranks)))
    Worker(shop, connection, int(batch_rows) or None).run()


def _import_models(bundle: Path) -> None:
    """What opening the bundle's models would import; its weights are not read."""
    for config in bundle.glob("model*/config.json"):
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.from_pretrained(config.parent, local_files_only=True))]


if __name__ == "__main__":
    main(sys.argv[1:])
