"""Garbage collection out of the way of requests.

A full collection walks every container of the process: with a bundle's items and the libraries that read them that is a
pause of a tenth of a second and more. What stands once a bundle is open, stays: it is set aside, and collections from
then on walk what requests left behind. Of that, answers are remembered for a while, and are no garbage: full
collections, which walk them all, come once for many requests.
"""

from __future__ import annotations

import gc

_FULL_AFTER = 100  # collections of the middle generation; Python's own is 10


def settle(*, at_once: bool = False) -> None:
    """Set aside what stands now.

    Args:
        at_once: without a collection first, because requests are being answered: cycles that nobody refers to any more
            are then kept, too.
    """
    if not at_once:
        gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_AFTER)
