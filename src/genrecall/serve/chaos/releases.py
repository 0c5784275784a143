"""Bundles that are swapped and items that are taken out while requests run."""

from __future__ import annotations

import time

from genrecall.serve.chaos.scenario import Setting, asking
from genrecall.serve.chaos.target import Target


def delisted(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Items that are taken out while requests run."""
    assert target is not None
    tried, seen = setting.times(20, 200), 0
    for user in (setting.users * tried)[:tried]:
        top = target.recommend(user_id=user, k=3)["items"][0]["item_id"]
        target.admin("items/delist", item_ids=[top])
        again = [item["item_id"] for item in target.recommend(user_id=user, k=10)["items"]]
        seen += top in again
        target.admin("items/delist", item_ids=[top], delisted=False)
    return f"{tried} items taken out, {seen} came back", seen == 0


def swapped(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Bundles staged, activated and rolled back under load."""
    assert target is not None
    swaps, slowest = setting.times(2, 20), 0.0
    with asking(setting, target) as seen:
        for _ in range(swaps):
            target.admin("releases/stage", bundle=str(setting.bundle.resolve()))
            target.admin("releases/activate")
            begun = time.monotonic()
            target.admin("releases/rollback")
            slowest = max(slowest, time.monotonic() - begun)
    return (
        f"{swaps} swaps and rollbacks, slowest rollback {slowest * 1e3:.0f} ms, {seen}",
        not seen.failures and slowest <= 1,
    )
