"""Items, users, queries and their pairs: the tables that fit into memory, checked and brought into our form."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrecall.catalog import columns
from genrecall.catalog.items import Items
from genrecall.catalog.report import Findings
from genrecall.catalog.sources.source import Stream
from genrecall.errors import DataError

_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$"
_AMOUNT = r"(?P<minus>-?)[$€£¥]?\s*(?P<amount>[0-9][0-9,]*(?:\.[0-9]+)?)"
_KEYS = {
    "items": ("item_id", "item_without_id"),
    "users": ("user_id", "user_without_id"),
    "queries": ("query_id", "query_without_text"),
}
"""By table: the column of its ids, and what rows without one are counted as."""
_DECIMAL_COMMA = r"[0-9],[0-9]{1,2}(?:[^0-9.,]|$)"


def take_items(
    stream: Stream, findings: Findings, *, first_of_duplicates: bool = False, drop_textless: bool = False
) -> Items:
    """Read and check the items; those without text are counted as such here, and left out later."""
    table = keyed(stream.table(), stream, "items", findings, first=first_of_duplicates)
    if "title" not in stream.columns:
        texts = [field.name for field in table.schema if columns.is_text(field.type) and field.name != "item_id"]
        columns.require(stream.path, stream.columns, "title", candidates=texts)
    kept: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name in table.column_names:
        column = _plain(table[name], name, stream, findings)
        if column is not None:
            kept[name] = column
    if "title" not in kept:
        raise columns.wrong_type(stream.path, "title", table["title"].type, "strings")
    kept["title"] = pc.fill_null(columns.text(kept["title"], stream.path, "title").cast(pa.string()), "")
    if "price" in kept:
        kept["price"] = _price(kept["price"], stream, findings)
    order = ["item_id", "title", *(name for name in kept if name not in ("item_id", "title"))]
    items = Items(table=pa.table({name: kept[name] for name in order}).combine_chunks())
    for name, mask in (
        ("empty_title", items.blank("title") & ~items.textless),
        ("textless_item" if drop_textless else "item_without_text", items.textless),
    ):
        rows = np.flatnonzero(mask)
        findings.add(name, len(rows), items.table["item_id"].take(pa.array(rows[:5])).to_pylist())
    return items


def take_users(stream: Stream, findings: Findings) -> pa.Table:
    """Read and check the profiles: ``user_id`` and one column a trait."""
    table = keyed(stream.table(), stream, "users", findings)
    kept = {name: _plain(table[name], name, stream, findings, infer=False) for name in table.column_names}
    return pa.table({name: column for name, column in kept.items() if column is not None})


def take_queries(stream: Stream, findings: Findings) -> pa.Table:
    """Read and check the queries: ``query_id``, ``query``."""
    for name in ("query_id", "query"):
        columns.require(stream.path, stream.columns, name)
    _report_unused(stream, ("query_id", "query"), findings)
    table = stream.table(("query_id", "query"))
    table = table.set_column(1, "query", columns.text(table["query"], stream.path, "query").cast(pa.string()))
    table = table.filter(
        _reported(pc.fill_null(pc.equal(table["query"], ""), True), table, "query_without_text", findings)
    )
    return keyed(table, stream, "queries", findings)


def take_pairs(stream: Stream, items: Items, queries: pa.Table | None, findings: Findings) -> pa.Table:
    """Read and check which items answer which query: ``query_id``, ``item_id``."""
    for name in ("query_id", "item_id"):
        columns.require(stream.path, stream.columns, name)
    _report_unused(stream, ("query_id", "item_id"), findings)
    table = stream.table(("query_id", "item_id"))
    table = pa.table(
        {name: columns.ids(table[name], stream.path, name).cast(pa.string()) for name in table.column_names}
    )
    known = pc.is_in(table["item_id"], value_set=items.table["item_id"].combine_chunks())
    if queries is not None:
        known = pc.and_(known, pc.is_in(table["query_id"], value_set=queries["query_id"].combine_chunks()))
    return table.filter(_reported(pc.invert(known), table, "unknown_pair", findings))


def keyed(table: pa.Table, stream: Stream, name: str, findings: Findings, *, first: bool = False) -> pa.Table:
    """A table with unique strings as ids; rows without one are left out, and counted.

    Args:
        table: rows.
        stream: that they come from.
        name: ``items``, ``users`` or ``queries``.
        findings: where it is counted.
        first: keep the first row of a repeated item id, and count the others; otherwise they are an error.

    Raises:
        DataError: ids that repeat, or none at all.
    """
    key, without = _KEYS[name]
    columns.require(stream.path, table.column_names, key)
    position = table.column_names.index(key)
    table = table.set_column(position, key, columns.ids(table[key], stream.path, key).cast(pa.string()))
    table = table.filter(_reported(pc.is_null(table[key]), table, without, findings))
    if not table.num_rows:
        raise DataError(
            f"no row of {stream.path.name} has a {key}", seen="empty ids only", allowed="ids", fix="check the column"
        )
    codes = table[key].combine_chunks().dictionary_encode().indices.to_numpy()
    firsts = np.zeros(len(codes), bool)
    firsts[np.unique(codes, return_index=True)[1]] = True
    if firsts.all():
        return table
    repeated = table.filter(~firsts)
    if not first:
        names = pc.unique(repeated[key]).to_pylist()
        raise DataError(
            f"{stream.path.name} repeats {key}",
            seen=f"{repeated.num_rows:,} rows too many; for example {', '.join(names[:5])}",
            allowed=f"one row a {key}",
            fix="remove the repeated rows"
            + (", or import with --first-item, which keeps the first of each" if name == "items" else ""),
        )
    findings.add("duplicate_item", repeated.num_rows, repeated[key].slice(0, 5).to_pylist())
    return table.filter(firsts)


def _reported(bad: pa.ChunkedArray, table: pa.Table, name: str, findings: Findings) -> pa.ChunkedArray:
    """The rows to keep, after the bad ones were counted."""
    rows = np.flatnonzero(bad.to_numpy())
    examples = (f"row {row + 1}: {table.slice(row, 1).select(table.column_names[:4]).to_pylist()[0]}" for row in rows)
    findings.add(name, len(rows), examples)
    return pc.invert(bad)


def _plain(
    column: pa.ChunkedArray, name: str, stream: Stream, findings: Findings, infer: bool = True
) -> pa.ChunkedArray | None:
    """A column as strings, numbers, booleans, times or number lists; None where it is something else (counted)."""
    kind = column.type
    if columns.is_text(kind):
        column = column.cast(pa.string())
        fixed = name.endswith("_id") or name in ("title", "price")
        if stream.untyped and infer and not fixed and _is_number(column):
            return column.cast(pa.float64())
        return column
    if pa.types.is_fixed_size_list(kind):
        column, kind = column.cast(pa.list_(kind.value_type)), pa.list_(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if columns.is_text(kind.value_type):
            findings.add("joined_column", 1, [f"{name} of {stream.path.name}"])
            texts = column.cast(pa.list_(pa.string()))
            return pc.binary_join(texts, ", ")
        if pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type):
            return column
    elif not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_null(kind)):
        return column
    elif pa.types.is_null(kind) and name == "title":
        return column.cast(pa.string())
    findings.add("unused_column", 1, [f"{name} of {stream.path.name} ({kind})"])
    return None


def _is_number(column: pa.ChunkedArray) -> bool:
    filled = column.drop_null()
    return bool(len(filled)) and bool(pc.all(pc.match_substring_regex(filled, _NUMBER)).as_py())


def _price(column: pa.ChunkedArray, stream: Stream, findings: Findings) -> pa.ChunkedArray:
    """float64 prices; the first number of a text such as ``$1,299.00``, ``-5`` or ``1.299,00 €``."""
    if not columns.is_text(column.type):
        return columns.numbers(column, stream.path, "price", untyped=False)
    points = pc.replace_substring(pc.replace_substring(column, ".", ""), ",", ".")
    plain = pc.if_else(pc.match_substring_regex(column, _DECIMAL_COMMA), points, column)
    found = pc.extract_regex(plain, _AMOUNT)
    amount = pc.replace_substring(pc.struct_field(found, "amount"), ",", "")
    prices = pc.binary_join_element_wise(pc.struct_field(found, "minus"), amount, "").cast(pa.float64())
    lost = pc.and_(pc.is_null(prices), pc.fill_null(pc.not_equal(column, ""), False))
    findings.add("unreadable_price", pc.sum(lost).as_py() or 0, column.filter(lost).slice(0, 5).to_pylist())
    return prices


def _report_unused(stream: Stream, used: tuple[str, ...], findings: Findings) -> None:
    rest = [f"{name} of {stream.path.name}" for name in stream.columns if name not in used]
    findings.add("unused_column", len(rest), rest)
