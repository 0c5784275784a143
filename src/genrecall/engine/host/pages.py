"""Reference-counted pages of prefix keys and values.

``free(p) ⇔ holders(p) = 0``: a page belongs to nobody, or to every request and cache entry that holds it (paged
attention, Kwon et al. 2023, arXiv 2309.06180). We deviate: pages are immutable once written, so that nothing is ever
copied on write, and page 0 belongs to nobody: padding writes there.
"""

from __future__ import annotations

from collections.abc import Iterable

SCRAP = 0


class PageAllocator:
    """Pages ``1 … pages - 1``; page 0 takes what padding writes.

    Args:
        pages: how many there are, page 0 included.
    """

    def __init__(self, pages: int) -> None:
        assert pages > 1, "page 0 belongs to nobody"
        self.capacity = pages - 1
        self._free = list(range(pages - 1, SCRAP, -1))
        self._holders = [0] * pages

    @property
    def available(self) -> int:
        """Free pages."""
        return len(self._free)

    def free_pages(self) -> tuple[int, ...]:
        """All that nobody holds."""
        return tuple(self._free)

    def holders(self, page: int) -> int:
        """How many hold a page."""
        return self._holders[page]

    def allocate(self, count: int) -> list[int]:
        """``count`` pages with one holder each."""
        assert count <= len(self._free), "what does not fit is not planned"
        if count == 0:
            return []
        taken = self._free[-count:][::-1]
        del self._free[-count:]
        for page in taken:
            self._holders[page] = 1
        return taken

    def share(self, pages: Iterable[int]) -> None:
        """One more holder of pages that have some."""
        for page in pages:
            assert self._holders[page] > 0, "only held pages can be shared"
            self._holders[page] += 1

    def release(self, pages: Iterable[int]) -> list[int]:
        """One holder less; returns the pages that are free now."""
        freed = []
        for page in pages:
            assert self._holders[page] > 0, "a page is released once by each holder"
            self._holders[page] -= 1
            if self._holders[page] == 0:
                freed.append(page)
        self._free.extend(freed)
        return freed
