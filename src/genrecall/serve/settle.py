"""Garbage collection out of the way of requests.

A full collection walks every container of the process: with a bundle's items and the libraries that read them that is a
pause of a tenth of a second and more. What stands once a bundle is open, stays: it is set aside, and collections from
then on walk what requests left behind.
"""

from __future__ import annotations

import gc


def settle(*, at_once: bool = False) -> None:
    """Set aside what stands now.

    Args:
        at_once: without a collection first, because requests are being answered: cycles that nobody refers to any more
            are then kept, too.
    """
    if not at_once:
        gc.collect()
    gc.freeze()
