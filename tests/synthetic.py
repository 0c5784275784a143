"""Small worlds with known structure, for the tests of every package: themes of items, users who follow a theme."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

THEMES = ("candle", "lamp", "teapot", "blanket", "garden", "clock", "basket", "ribbon")
COLOURS = ("red", "blue", "green", "ivory", "pink", "black", "silver", "gold", "white", "plum")
COUNTRIES = ("France", "Spain", "Norway")


def tables(users: int = 120, items: int = 48, events: int = 12, seed: int = 0) -> dict[str, pa.Table]:
    """``items``, ``events`` and ``users`` as a newcomer would have them; each user walks through one theme's items."""
    rng = np.random.default_rng(seed)
    themes = len(THEMES)
    titles = [f"{COLOURS[(i // themes) % len(COLOURS)]} {THEMES[i % themes]} no {i}" for i in range(items)]
    user_ids, item_ids, times, kinds = [], [], [], []
    for user in range(users):
        theme = user % themes
        own = np.arange(theme, items, themes)
        start = rng.integers(len(own))
        for step in range(events):
            item = int(own[(start + step) % len(own)]) if rng.random() < 0.9 else int(rng.integers(items))
            user_ids.append(f"u{user}")
            item_ids.append(f"i{item}")
            times.append(1_600_000_000 + user * 1000 + step * 60)
            kinds.append("click")
    return {
        "items": pa.table({"item_id": [f"i{i}" for i in range(items)], "title": titles}),
        "events": pa.table({"user_id": user_ids, "item_id": item_ids, "timestamp": times, "event": kinds}),
        "users": pa.table(
            {"user_id": [f"u{u}" for u in range(users)], "country": [COUNTRIES[u % 3] for u in range(users)]}
        ),
    }


def write(directory: Path, **sizes: int) -> Path:
    """Write the tables as parquet files into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, table in tables(**sizes).items():
        pq.write_table(table, directory / f"{name}.parquet")
    return directory
