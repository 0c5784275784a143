"""Search in the same model and bundle: what it learns from, prepared once, and how it is judged.

    titles ──▶ queries, made up (and those of the log) ──▶ teachers: BM25 and dense vectors ──▶ ``searches`` artifact
                                                                              histories ──┴──▶ generators ──▶ tables

Nothing that evaluation asks is trained on: the catalog's own queries are left out by id and as bags of words, and only
the columns named here are read. The artifact holds everything that needs the text encoder, so that training and judging
do not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from genrecall.artifacts import canonical_json, is_current, open_artifact, write_artifact
from genrecall.catalog.queries import SearchCases, search_cases
from genrecall.catalog.split import Split
from genrecall.catalog.store import Catalog
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.lock import Final
from genrecall.eval.search import evaluate_search
from genrecall.prompt.item_prompt import ItemPrompt
from genrecall.prompt.query_words import QueryWords
from genrecall.recall.channel import Channel
from genrecall.recall.dense import DenseChannel, Encode
from genrecall.recall.lexical import LexicalChannel
from genrecall.recall.search_teacher import SearchTeacherConfig, search_targets
from genrecall.telemetry import log
from genrecall.text.cleaning import clean
from genrecall.text.vectors import Vectors
from genrecall.train.corpus import Pairs, logged_pairs
from genrecall.train.queries import HeldOut
from genrecall.train.search import SearchConfig, Searches, make_searches, search_rows
from genrecall.train.sequence.soft import SoftTargets
from genrecall.train.turns import TurnRows

KIND = "searches"
_ROWS, _TEACHER, _WORDS, _ASKED = "searches.parquet", "teacher.safetensors", "words.json", "evaluation.parquet"
FREQUENCY = "training events on the items that answer it, for want of a log of searches"


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchData:
    """What ``prepare_search`` made.

    Attributes:
        config: how searches are made up and mixed in.
        searches: queries with an item each.
        soft: their teachers.
        words: the vocabulary of prompts.
        word_vectors: float32 (1 + words, D): the search token's, zero, and the words', centred.
        texts: of the items, as the lexical channel reads them.
        asked: float32 vectors of the evaluation's queries, by text; for the dense channel alone.
        digest: of the artifact.
    """

    config: SearchConfig
    searches: Searches
    soft: SoftTargets
    words: QueryWords
    word_vectors: np.ndarray
    texts: Sequence[str]
    asked: dict[str, np.ndarray]
    digest: str

    def rows(self, split: Split, prompt: ItemPrompt) -> TurnRows:
        """The searches as a prompt writes them."""
        return search_rows(
            self.searches, split.train, prompt, self.config, soft=self.soft, word_vectors=self.word_vectors
        )


def prepare_search(
    catalog: Catalog,
    vectors: Vectors,
    split: Split,
    encode: Encode,
    out: Path,
    *,
    config: SearchConfig | None = None,
    teacher: SearchTeacherConfig | None = None,
    columns: Sequence[str] = ("title",),
    pieces: int = 4096,
    given: Pairs | None = None,
) -> SearchData:
    """Make queries up, ask the teachers, embed words, and store it all; an artifact that is current is read.

    Args:
        catalog: its table ``queries`` is what searches are judged by.
        vectors: of the items, for the dense teacher; of texts that evaluation allows.
        split: only its training events are used.
        encode: texts to vectors, as the items' were.
        out: directory of the artifact.
        config, teacher: settings.
        columns: text columns that queries, words and the lexical channel are made from. Leave out those that
            evaluation queries were derived from.
        pieces: rows for words that no item has.
        given: further queries with items, beside those of the log.
    """
    config, teacher = config or SearchConfig(), teacher or SearchTeacherConfig()
    vectors.require_items(catalog.items.ids)
    identity = {
        "search": {name: value for name, value in asdict(config).items() if name != "share"},
        "teacher": json.loads(json.dumps(asdict(teacher))),
        "columns": list(columns),
        "pieces": pieces,
        "given": _digest(given),
    }
    parents = {"catalog": catalog.digest, "vectors": vectors.digest, "histories": split.train.digest}
    if is_current(out, kind=KIND, config=identity, parents=parents):
        return load_search(out, share=config.share)
    texts = item_columns(catalog, columns)
    held_out = HeldOut.of(catalog)
    pairs = [logged_pairs(catalog, split.train), *([given] if given is not None else [])]
    searches = make_searches(texts, split.train, held_out, config, given=_joined(pairs))
    log(f"{len(searches):,} searches to learn from; {searches.left_out:,} left out, which evaluation asks")
    counts = split.train.item_counts(len(catalog.items))
    channels = text_channels(vectors, texts, counts, _remembering(encode, searches.texts))
    soft = search_targets(channels, searches.texts, teacher, digest=searches.digest)
    words = QueryWords.learn(texts, pieces=pieces)
    known = encode(list(words.words)).astype(np.float32)
    with write_artifact(out, kind=KIND, config=identity, parents=parents) as writer:
        columns_of = {"text": pa.array(searches.texts), "item": searches.items, "user": searches.users}
        pq.write_table(pa.table(columns_of), writer.path / _ROWS, compression="zstd")
        arrays = {
            "items": soft.items,
            "weights": soft.weights,
            "word_vectors": (known - known.mean(0)).astype(np.float16),
        }
        save_file(arrays, writer.path / _TEACHER)
        told = {"words": list(words.words), "pieces": words.pieces, "texts": texts}
        (writer.path / _WORDS).write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
        pq.write_table(_encoded(catalog, encode), writer.path / _ASKED)
        writer.facts |= {"searches": len(searches), "left_out": searches.left_out}
    return load_search(out, share=config.share)


def load_search(path: Path, *, share: float = SearchConfig.share) -> SearchData:
    """Read a ``searches`` artifact, to be mixed in with this share."""
    stored = open_artifact(path, kind=KIND)
    table = pq.read_table(stored.file(_ROWS))
    arrays = load_file(stored.file(_TEACHER))
    told = json.loads(stored.file(_WORDS).read_text(encoding="utf-8"))
    asked = pq.read_table(stored.file(_ASKED)).to_pydict()
    known = arrays["word_vectors"].astype(np.float32)
    return SearchData(
        config=SearchConfig(**stored.manifest.config["search"], share=share),
        searches=Searches(
            texts=table["text"].to_pylist(), items=table["item"].to_numpy(), users=table["user"].to_numpy(),
            left_out=stored.manifest.facts["left_out"],
        ),
        soft=SoftTargets(items=arrays["items"], weights=arrays["weights"], digest=stored.digest),
        words=QueryWords(words=tuple(told["words"]), pieces=told["pieces"]),
        word_vectors=np.concatenate([np.zeros((1, known.shape[1]), np.float32), known]),
        texts=told["texts"],
        asked={text: np.array(v, np.float32) for text, v in zip(asked["text"], asked["vector"], strict=True)},
        digest=stored.digest,
    )  # fmt: skip


def judge_search(
    channels: Sequence[Channel],
    cases: SearchCases,
    split: Split,
    num_items: int,
    *,
    depth: int = 100,
    final: Final | None = None,
    remarks: tuple[str, ...] = (),
) -> Evaluation:
    """The search metrics of channels, with tiers of query frequency; test queries are refused without ``final``."""
    counts = split.train.item_counts(num_items)
    return evaluate_search(
        channels,
        cases,
        num_items=num_items,
        train_counts=counts,
        frequencies=cases.frequencies(counts),
        frequency=FREQUENCY,
        final=final,
        k=depth,
        remarks=remarks,
    )


def text_channels(vectors: Vectors, texts: Sequence[str], counts: np.ndarray, encode: Encode) -> list[Channel]:
    """BM25 and dense vectors: teachers, and what search is compared with."""
    return [LexicalChannel.fit(texts, counts), DenseChannel.fit(vectors.matrix, counts, encode=encode)]


def search_baselines(vectors: Vectors, data: SearchData, split: Split) -> list[Channel]:
    """The text channels as judges ask them, without an encoder."""
    counts = split.train.item_counts(len(vectors.matrix))
    return text_channels(vectors, data.texts, counts, lambda texts: np.stack([data.asked[text] for text in texts]))


def search_parts(catalog: Catalog, *, valid_share: float = 0.5, seed: int = 0) -> tuple[SearchCases, SearchCases]:
    """The catalog's own queries in halves: to choose settings by, and to test."""
    return search_cases(catalog).divide(valid_share=valid_share, seed=seed)


def item_columns(catalog: Catalog, columns: Sequence[str]) -> list[str]:
    """One text an item out of these columns."""
    rows = zip(*(catalog.items.table[column].to_pylist() for column in columns), strict=True)
    return [" ".join(clean(value or "") for value in row) for row in rows]


def _digest(given: Pairs | None) -> str:
    if given is None:
        return ""
    told = canonical_json([list(given.texts), given.items.tolist(), list(given.query_ids), given.users.tolist()])
    return f"sha256:{hashlib.sha256(told.encode()).hexdigest()}"


def _joined(pairs: Sequence[Pairs]) -> Pairs:
    return Pairs(
        texts=[text for part in pairs for text in part.texts],
        items=np.concatenate([part.items for part in pairs]),
        query_ids=[query for part in pairs for query in part.query_ids],
        users=np.concatenate([part.users for part in pairs]),
    )


def _remembering(encode: Encode, texts: Sequence[str]) -> Encode:
    """Encode all distinct texts at once, which is faster than in the channel's batches."""
    distinct = sorted(set(texts))
    place = {text: number for number, text in enumerate(distinct)}
    vectors = encode(distinct).astype(np.float16)
    return lambda asked: vectors[[place[text] for text in asked]].astype(np.float32)


def _encoded(catalog: Catalog, encode: Encode) -> pa.Table:
    texts = [] if catalog.queries is None else sorted(set(catalog.queries["query"].to_pylist()))
    vectors: list[Any] = encode(texts).astype(np.float32).tolist() if texts else []
    return pa.table({"text": pa.array(texts, pa.string()), "vector": pa.array(vectors, pa.list_(pa.float32()))})
