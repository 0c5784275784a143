"""The event log as a file: what a refresh learns from, read while the service goes on writing."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from genrecall.serve.state.store import UserState

_ROWS = 50_000
_SCHEMA = pa.schema(
    [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.timestamp("s")), ("event", pa.string()),
     ("query", pa.string())]
)  # fmt: skip


def export_log(state: Path, out: Path, *, after: int = 0) -> tuple[int, int]:
    """Write the events after a sequence number as Parquet; how many there are, and the number of the newest.

    One snapshot of the log is read; events that are erased later stay in the file, so delete it when it was used.
    """
    store, count, newest = UserState(state), 0, after
    try:
        with pq.ParquetWriter(out, _SCHEMA, compression="zstd") as writer:
            entries = store.log(after)
            while rows := list(islice(entries, _ROWS)):
                events = [event for _, event in rows]
                columns = (
                    [event.user_id for event in events], [event.item_id for event in events],
                    [event.timestamp for event in events], [event.event for event in events],
                    [event.query for event in events],
                )  # fmt: skip
                writer.write_batch(pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)],
                                                   schema=_SCHEMA))  # fmt: skip
                count, newest = count + len(rows), rows[-1][0]
    finally:
        store.close()
    return count, newest
