"""How a bundle's folders are called: read without anything that a model needs."""

from __future__ import annotations

KIND = "bundle"
RANKER = "ranker"
"""Folder of the ranker, where a bundle has one."""


def parts_of(generator: int) -> tuple[str, str]:
    """Folders of a generator's SIDs and model within a bundle: ``sid``, ``model``; ``sid-1``, ``model-1``; …"""
    return ("sid", "model") if generator == 0 else (f"sid-{generator}", f"model-{generator}")
