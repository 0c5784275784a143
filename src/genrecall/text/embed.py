"""The stage: a catalog's items to stored vectors, by an encoder."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genrecall.artifacts import is_current
from genrecall.errors import DataError
from genrecall.processes import gathered, is_main, share, wait
from genrecall.telemetry import log
from genrecall.text.encoder import DEFAULT, Encoder, load_encoder
from genrecall.text.fields import TextTemplate, default_template
from genrecall.text.vectors import KIND, Vectors, write_vectors

if TYPE_CHECKING:
    from genrecall.catalog.store import Catalog

_EXAMPLES = 5


def embed_catalog(
    catalog: Catalog,
    *,
    out: Path | str,
    encoder: str | Path | Encoder = DEFAULT,
    template: TextTemplate | str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    force: bool = False,
) -> Vectors:
    """Embed every item and write the artifact; one that is current is read instead.

    Under torchrun each process embeds a share of the texts, and the first one writes.

    Args:
        catalog: its items.
        out: directory of the artifact.
        encoder: a name or directory for ``load_encoder``, or an encoder.
        template: which columns, in which words; None for ``default_template``.
        batch_size: most texts a batch; ignored for an encoder that is given ready.
        device: where to compute; ignored for an encoder that is given ready.
        force: embed even if ``out`` is current.
    """
    if isinstance(template, str):
        template = TextTemplate(text=template)
    template = template or default_template(catalog.items)
    texts = template.render(catalog.items)
    chosen = load_encoder(encoder, device=device, batch_size=batch_size) if isinstance(encoder, str | Path) else encoder
    config = {
        "encoder": chosen.identity,
        "template": template.text,
        "max_characters": template.max_characters,
        "texts": _digest(catalog.items.ids, texts),
    }
    parents = parents_of(catalog)
    if not force and is_current(out, kind=KIND, config=config, parents=parents):
        log(f"vectors in {out} are current: nothing to do")
        return Vectors.load(out)
    log(f"template: {template.text}    for example: {texts[0][:120] if texts else ''}")
    start = time.perf_counter()
    matrix = gathered(chosen.encode(texts[share()]), len(texts))
    seconds = time.perf_counter() - start
    _require_finite(catalog.items.ids, matrix)
    facts: dict[str, Any] = {"seconds": round(seconds, 2), "texts": len(texts), "distinct_texts": len(set(texts))}
    made = None
    if is_main():
        made = write_vectors(out, catalog.items.ids, matrix, config=config, parents=parents, facts=facts)
    wait()
    return made or Vectors.load(out)


def parents_of(catalog: Catalog) -> dict[str, str]:
    """Digest of the catalog; nothing for one that was only made in memory (the texts' digest stands for it)."""
    return {"catalog": catalog.digest} if catalog.digest else {}


def _digest(item_ids: list[str], texts: list[str]) -> str:
    total = hashlib.sha256()
    for item_id, text in zip(item_ids, texts, strict=True):
        total.update(f"{item_id}\x00{text}\x00".encode())
    return f"sha256:{total.hexdigest()}"


def _require_finite(item_ids: list[str], matrix: np.ndarray) -> None:
    broken = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(broken):
        raise DataError(
            "the encoder returned numbers that are not finite",
            seen=f"{len(broken)} items, such as {', '.join(item_ids[i] for i in broken[:_EXAMPLES])}",
            allowed="finite vectors",
            fix="use another --encoder or --device; the weights of this one may be damaged",
        )
