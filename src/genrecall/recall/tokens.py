"""What of an item is matched by words."""

from __future__ import annotations

from genrecall.catalog.items import Items
from genrecall.text.cleaning import clean
from genrecall.text.fields import MAX_CHARACTERS, default_template
from genrecall.text.words import words

__all__ = ["item_texts", "words"]


def item_texts(items: Items) -> list[str]:
    """One text an item: the columns that would be embedded, joined; empty where an item has none."""
    columns = [items.table[column].to_pylist() for column in default_template(items).columns]
    return [" ".join(clean(value or "") for value in row)[:MAX_CHARACTERS] for row in zip(*columns, strict=True)]
