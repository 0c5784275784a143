"""Keep users and items that are seen often enough.

The k-core of the user-item graph: the largest part in which every user and every item has at least k events (Seidman,
"Network structure and minimum degree", Social Networks 1983; the "5-core" of the Amazon sets). We deviate in counting
events, repeats included, and only clicks, carts and orders: exposures keep nobody in.
"""

from __future__ import annotations

import numpy as np

from genrecall.catalog.events import KINDS, POSITIVE, Events


def k_core(events: Events, num_items: int, k: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Users and items that remain.

    Args:
        events: sorted events.
        num_items: I.
        k: least events of a user and of an item.

    Returns:
        bool (U,) users kept, bool (I,) items kept, and the number of rounds.
    """
    positive = np.isin(events.kind, [KINDS.index(name) for name in POSITIVE]) & (events.item >= 0)
    user, item = events.user[positive], events.item[positive]
    rounds = 0
    while True:
        rounds += 1
        users = np.bincount(user, minlength=events.num_users) >= k
        items = np.bincount(item, minlength=num_items) >= k
        stays = users[user] & items[item]
        if stays.all():
            return users, items, rounds
        user, item = user[stays], item[stays]


def restrict(events: Events, users: np.ndarray, items: np.ndarray) -> Events:
    """Events of the users and on the items kept (bool (U,), bool (I,)), both renumbered without gaps."""
    new_user = np.cumsum(users, dtype=np.int32) - 1
    new_item = np.append(np.cumsum(items, dtype=np.int32) - 1, np.int32(-1))  # NO_ITEM stays NO_ITEM
    stays = users[events.user] & np.append(items, True)[events.item]

    def part(column: np.ndarray | None) -> np.ndarray | None:
        return None if column is None else column[stays]

    return Events(
        user=new_user[events.user[stays]],
        item=new_item[events.item[stays]],
        time=events.time[stays],
        kind=events.kind[stays],
        user_ids=[events.user_ids[number] for number in np.flatnonzero(users)],
        timed=events.timed,
        session=part(events.session),
        split=part(events.split),
        query=part(events.query),
        query_texts=events.query_texts,
    )
