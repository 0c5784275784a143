"""Which pages already hold the beginning of a user's prompt.

``hit(u, t) = max { n : t[:nP] is a path in tree(u), nP < |t| }`` over whole pages of P tokens: a radix tree (Zheng et
al. 2024, arXiv 2312.07104) whose edges are pages. We deviate: every user has a tree of their own, so that no byte of
one user reaches another's answer and all of a user's pages can be purged; requests without a user are not kept.

Pages that are needed for others go to a second tier in host memory, where there is one, and come back when their user
does: at once when a request is queued and there is room, otherwise when it is planned.

A prompt enters the tree when it is planned, before it is read: pages are written in stream order, layer by layer, so
that even requests of one batch can share them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from genrecall.engine.host.pages import SCRAP, PageAllocator
from genrecall.engine.host.tier import Slots


@dataclass(eq=False)
class _Node:
    """One page of one user's tree; the root holds none. It is on the device, in a slot of the host, or in both; without
    a page it is cold, and what hangs below it is cold, too.
    """

    user: str
    page: int | None
    parent: _Node | None
    key: tuple[int, ...]
    slot: int | None = None
    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lease:
    """Pages of one prompt, held until the request is answered.

    Attributes:
        user: whose they are; None where nothing is kept.
        pages: in the order of the prompt.
        cached: tokens that need not be read, a multiple of the page's size below the prompt's length.
    """

    user: str | None
    pages: tuple[int, ...]
    cached: int


class PrefixCache:
    """Leases pages for prompts and remembers them by user.

    Args:
        allocator: of all pages.
        page_tokens: P.
        slots: of the host; None: what is given up is forgotten.
    """

    def __init__(self, allocator: PageAllocator, page_tokens: int, slots: Slots | None = None) -> None:
        assert page_tokens > 0, "a page holds tokens"
        self.allocator, self.page_tokens = allocator, page_tokens
        self.slots = slots or Slots(0)
        self._roots: dict[str, _Node] = {}
        self._cold: OrderedDict[_Node, None] = OrderedDict()  # in slots alone; oldest first, descendants before
        self._backed: OrderedDict[_Node, None] = OrderedDict()  # on the device, with a slot that they can do without
        self._recent: OrderedDict[_Node, None] = OrderedDict()  # oldest first; descendants before their ancestors
        self._running: set[Lease] = set()
        self._wipe: set[int] = set()
        self.hit_tokens = self.read_tokens = self.onboarded_tokens = 0

    @property
    def pages(self) -> int:
        """Pages that trees hold."""
        return len(self._recent)

    def pages_for(self, tokens: int) -> int:
        """How many pages a prompt of so many tokens needs."""
        return -(-tokens // self.page_tokens)

    def hit(self, user: str | None, tokens: Sequence[int]) -> int:
        """Tokens of a prompt that are already there."""
        return len(self._path(user, tokens)) * self.page_tokens

    def lease(self, user: str | None, tokens: Sequence[int]) -> Lease | None:
        """Pages for a whole prompt, evicting what was not used for longest; None where that does not suffice."""
        path = self._path(user, tokens)
        shared = [node.page for node in path if node.page is not None]
        cold = path[len(shared) :]
        self.allocator.share(shared)  # first, so that eviction leaves them alone
        for node in cold:  # out of reach of whatever eviction drops
            del self._cold[node]
        missing = self.pages_for(len(tokens)) - len(shared)
        if missing > self.allocator.available:
            self._evict(missing - self.allocator.available)
        if missing > self.allocator.available:
            self.allocator.release(shared)
            self._cold.update(dict.fromkeys(reversed(cold)))
            return None
        fresh = self.allocator.allocate(missing)
        self._onboard(cold, fresh[: len(cold)])
        self.allocator.share(fresh[: len(cold)])  # the tree's and the request's
        pages = (*shared, *fresh)
        if user is not None:
            self._keep(user, tokens, pages, path)
        cached = len(path) * self.page_tokens
        self.hit_tokens += cached
        self.read_tokens += len(tokens) - cached
        lease = Lease(user=user, pages=pages, cached=cached)
        self._running.add(lease)
        return lease

    def prefetch(self, user: str | None, tokens: Sequence[int]) -> None:
        """Bring back what a queued prompt will find in slots, where that takes no page from anybody."""
        if not self._cold or not self.allocator.available:
            return
        path = self._path(user, tokens)
        cold = [node for node in path if node.page is None]
        if cold and len(cold) <= self.allocator.available:
            self._onboard(cold, self.allocator.allocate(len(cold)))
            for node in reversed(path):
                self._recent.move_to_end(node)

    def release(self, lease: Lease) -> None:
        """The request is answered: what no tree holds is free again."""
        self._running.remove(lease)
        self.allocator.release(lease.pages)

    def purge(self, user: str) -> None:
        """Forget a user. Every page that may hold a byte of theirs is wiped as soon as nobody reads it.

        Free pages hold what was last written there, by whomever, so all of them are among these.
        """
        root = self._roots.pop(user, None)
        nodes = [] if root is None else list(root.children.values())
        for node in nodes:
            nodes.extend(node.children.values())
        pages = self._forget(nodes)
        self._wipe.update(self.allocator.free_pages(), pages)
        self.slots.purge(user)
        for lease in self._running:
            if lease.user == user:
                self._wipe.update(lease.pages)

    def clear(self) -> None:
        """Forget everything, as after a batch that failed: what its pages hold is unknown."""
        self._forget([*self._recent, *self._cold])
        self._roots.clear()

    def users(self) -> list[str]:
        """Users of whom pages are kept."""
        return list(self._roots)

    def wipeable(self) -> list[int]:
        """Pages to be zeroed now, before anything else is planned; each is told once."""
        pages = [page for page in self._wipe if self.allocator.holders(page) == 0]
        self._wipe.difference_update(pages)
        return pages

    def _path(self, user: str | None, tokens: Sequence[int]) -> list[_Node]:
        """Nodes of the longest kept beginning that leaves at least one token to read."""
        node = None if user is None else self._roots.get(user)
        path: list[_Node] = []
        size = self.page_tokens
        while node is not None and (len(path) + 1) * size < len(tokens):
            node = node.children.get(tuple(tokens[len(path) * size : (len(path) + 1) * size]))
            if node is not None:
                path.append(node)
        return path

    def _forget(self, nodes: Sequence[_Node]) -> list[int]:
        """Nodes leave the trees; returns the pages that they had."""
        pages = [node.page for node in nodes if node.page is not None]
        for node in nodes:
            del (self._cold if node.page is None else self._recent)[node]
            if node.slot is not None:
                self._backed.pop(node, None)
                self.slots.release(node.slot)
        self.allocator.release(pages)
        return pages

    def _onboard(self, cold: Sequence[_Node], pages: Sequence[int]) -> None:
        """Copy slots into pages, whose holder is the tree."""
        for node, page in zip(cold, pages, strict=True):
            assert node.slot is not None, "what is not on the device is in a slot"
            self.slots.onboard(node.slot, page)
            self._cold.pop(node, None)
            self._warm(node, page)
        self.onboarded_tokens += len(cold) * self.page_tokens

    def _keep(self, user: str, tokens: Sequence[int], pages: Sequence[int], path: list[_Node]) -> None:
        """Put the whole pages of a prompt into the user's tree."""
        size, whole = self.page_tokens, len(tokens) // self.page_tokens
        if whole == 0:
            return
        along = list(path)
        node = path[-1] if path else self._roots.setdefault(user, _Node(user=user, page=SCRAP, parent=None, key=()))
        for place in range(len(path), whole):
            key = tuple(tokens[place * size : (place + 1) * size])
            child = node.children.get(key)
            if child is None:
                child = _Node(user=user, page=pages[place], parent=node, key=key)
                node.children[key] = child
                self.allocator.share([pages[place]])
                self._recent[child] = None
            elif child.page is None:  # read anew, because a prompt's last page always is
                del self._cold[child]
                self.allocator.share([pages[place]])
                self._warm(child, pages[place])
            node = child
            along.append(child)
        for node in reversed(along):
            self._recent.move_to_end(node)

    def _warm(self, node: _Node, page: int) -> None:
        """A node of a slot is on the device again."""
        node.page = page
        self._recent[node] = self._backed[node] = None

    def _evict(self, count: int) -> None:
        """Free up to ``count`` pages that only trees hold, least recently used first, leaves before their parents."""
        idle = (node for node in self._recent if node.page is not None and self.allocator.holders(node.page) == 1)
        for node in list(islice(idle, count)):
            assert node.page is not None, "only what is on the device is recent"
            assert all(child.page is None for child in node.children.values()), "descendants are older than ancestors"
            del self._recent[node]
            self.allocator.release([node.page])
            if node.slot is not None:
                del self._backed[node]
            elif self._free_slot():
                node.slot = self.slots.offload(node.page, node.user)
            else:
                self._detach(node)
                continue
            node.page = None
            self._cold[node] = None

    def _free_slot(self) -> bool:
        """See to it that there is one, where there are any: what was in one for longest is forgotten; where pages that
        are on the device as well take most of them, one of these gives its slot up.
        """
        if not self.slots.available and (self._backed or self._cold):
            backed = len(self._backed) > len(self._cold)
            node, _ = (self._backed if backed else self._cold).popitem(last=False)
            assert node.slot is not None, "both are in slots"
            self.slots.release(node.slot)
            node.slot = None
            if not backed:
                self._detach(node)
        return self.slots.available > 0

    def _detach(self, node: _Node) -> None:
        assert not node.children, "descendants are older than their ancestors"
        parent = node.parent
        assert parent is not None, "roots are not in the order of use"
        del parent.children[node.key]
        if parent.parent is None and not parent.children:
            del self._roots[parent.user]
