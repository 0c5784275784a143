"""What the active bundle's data are like: its import's report, its columns, how events spread over items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrecall.artifacts import open_artifact
from genrecall.bundle.contents import Contents
from genrecall.serve.beside import beside
from genrecall.serve.default import FALLBACK

_REPORT = "report.json"
_CURVE = 100


def summary(contents: Contents) -> dict[str, Any]:
    """Everything that the page shows; O(I) work, so it is made once a bundle.

    ``report`` is what ``genrecall data import`` found; None where the bundle's catalog does not lie beside it.
    """
    table = contents.items.table
    return {
        "items": len(contents.items),
        "catalog": contents.catalog_digest,
        "columns": [_column(table, field) for field in table.schema],
        "title_words": _title_words(table["title"]),
        "concentration": _concentration(np.asarray(contents.channels[FALLBACK].counts, np.float64)),
        "report": _report(contents),
    }


def _column(table: pa.Table, field: pa.Field) -> dict[str, Any]:
    column = table[field.name]
    blank = column.null_count
    if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
        blank += pc.sum(pc.equal(pc.utf8_trim_whitespace(column), "")).as_py() or 0
    return {"name": field.name, "type": str(field.type), "filled": 1 - blank / max(len(column), 1)}


def _title_words(titles: pa.ChunkedArray) -> dict[str, float]:
    words = np.array([len((title or "").split()) for title in titles.to_pylist()] or [0])
    return dict(zip(("p5", "p50", "p95"), np.percentile(words, (5, 50, 95)).tolist(), strict=True))


def _concentration(counts: np.ndarray) -> dict[str, Any]:
    """How training events spread: the share that the most popular items hold, at every hundredth of the items."""
    popular = np.sort(counts)[::-1]
    total = popular.sum()
    places = np.ceil(np.linspace(0, len(popular), _CURVE + 1)).astype(int)
    reached = np.concatenate(([0.0], popular.cumsum() / total if total else np.zeros(len(popular))))
    return {
        "events": float(total),
        "without": int((counts == 0).sum()),
        "half": int(np.searchsorted(reached, 0.5)) if total else 0,
        "curve": reached[places].round(4).tolist(),
    }


def _report(contents: Contents) -> dict[str, Any] | None:
    catalog = beside(contents.path, contents.catalog_digest, "catalog")
    if catalog is None or _REPORT not in catalog.manifest.files:
        return None
    from genrecall.catalog.report import ValidationReport

    return ValidationReport.read(open_artifact(catalog.path, kind="catalog").file(_REPORT)).to_dict()
