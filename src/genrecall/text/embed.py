"""The stage: a catalog's items to stored vectors, by an encoder."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genrecall.artifacts import is_current, open_artifact
from genrecall.errors import ArtifactError, DataError
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


def is_of_texts(vectors: Path, catalog: Catalog) -> bool:
    """Whether stored vectors were made from the texts that this catalog's items have, whatever else changed in it."""
    manifest = open_artifact(vectors, kind=KIND, verify=False).manifest
    if manifest.parents == parents_of(catalog):
        return True
    made = manifest.config
    if "texts" not in made:
        return False
    template = TextTemplate(text=made["template"], max_characters=made["max_characters"])
    return bool(made["texts"] == _digest(catalog.items.ids, template.render(catalog.items)))


def vectors_of(vectors: Path, catalog: Catalog) -> Vectors:
    """The stored vectors of this catalog's items, as their texts are now; of those made elsewhere nobody knows.

    Raises:
        ArtifactError: they are of other items, or an encoder made them of other texts.
    """
    found = Vectors.load(vectors)
    found.require_items(catalog.items.ids)
    known = "texts" in open_artifact(vectors, kind=KIND, verify=False).manifest.config
    if known and not is_of_texts(vectors, catalog):
        raise ArtifactError(
            "the vectors are of other texts than the catalog's",
            seen=f"{vectors}, made before items got other texts",
            allowed="vectors of the texts that the items have now",
            fix="run `genrecall embed` again, then this",
        )
    return found


def extend_vectors(
    before: Path | str, catalog: Catalog, *, known: Catalog, out: Path | str,
    encoder: str | Path | Encoder | None = None, device: str = "auto",
) -> Vectors:  # fmt: skip
    """Vectors of a catalog that items were added to: what is new, or has another text, is computed; the others stay.

    Args:
        before: ``vectors`` artifact of the catalog before.
        catalog: with its items, and more.
        known: the catalog before.
        out: directory of the new artifact.
        encoder: as in ``embed_catalog``; None takes the name that the vectors were made with.
        device: where to compute.

    Raises:
        ArtifactError: the encoder is not the one that made them.
    """
    config = open_artifact(before, kind=KIND).manifest.config
    stored = Vectors.load(before)
    named = encoder if encoder is not None else config["encoder"]["name"]
    chosen = load_encoder(named, device=device) if isinstance(named, str | Path) else named
    if chosen.identity != config["encoder"]:
        raise ArtifactError(
            "these vectors were made by another encoder",
            seen=str(chosen.identity), allowed=str(config["encoder"]), fix="give the --encoder that made them",
        )  # fmt: skip
    template = TextTemplate(text=config["template"], max_characters=config["max_characters"])
    texts = template.render(catalog.items)
    read = dict(zip(known.items.ids, template.render(known.items), strict=True))
    place = {item: row for row, item in enumerate(stored.item_ids)}
    kept = {
        row: place[item] for row, item in enumerate(catalog.items.ids) if item in place and read.get(item) == texts[row]
    }
    fresh = [row for row in range(len(texts)) if row not in kept]
    made = {**config, "texts": _digest(catalog.items.ids, texts)}
    parents = {**parents_of(catalog), "vectors": stored.digest}
    if is_current(out, kind=KIND, config=made, parents=parents):
        return Vectors.load(out)
    matrix = np.zeros((len(texts), stored.dim), np.float32)
    if fresh:
        matrix[fresh] = chosen.encode([texts[row] for row in fresh])
    matrix[list(kept)] = stored.matrix[list(kept.values())]
    _require_finite(catalog.items.ids, matrix)
    facts: dict[str, Any] = {"texts": len(fresh), "kept": len(kept)}
    return write_vectors(out, catalog.items.ids, matrix, config=made, parents=parents, facts=facts)


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
