"""Chromium through Playwright: a page that remembers what it complained about and whom it asked."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-default-apps", "--disable-sync", "--no-first-run",
)  # fmt: skip
_REPORTS = "window.reports = []; addEventListener('securitypolicyviolation', (e) => reports.push(e.violatedDirective));"
PATIENCE_MS = 30_000


def chromium() -> str | None:
    """The browser of this machine, if it has one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def missing() -> str | None:
    """Why there can be no browser test here; None where there can."""
    if importlib.util.find_spec("playwright") is None:
        return "no playwright: pip install '.[browser]'"
    return None if chromium() is not None else "no Chromium on this machine"


def axe() -> str | None:
    """The source of axe-core, out of the package that carries it."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        return None
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


class Watched:
    """One page of a fresh profile.

    Attributes:
        page: Playwright's.
        complaints: errors and warnings of console and page.
        requests: every address that was asked for.
    """

    def __init__(self, page: Any, base: str) -> None:
        self.page, self.base = page, base
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(_REPORTS)
        page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def go(self, where: str, until: str) -> None:
        """Open a place of the console afresh, and wait until an element is there."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.base}/#/{where}")
        self.find(until)

    def count(self, selector: str) -> int:
        """How many elements there are."""
        return int(self.page.locator(selector).count())

    def find(self, selector: str) -> None:
        """Wait until an element is there."""
        self.page.wait_for_selector(selector, state="attached")

    def until(self, expression: str) -> None:
        """Wait until an expression holds; asked from outside, since the page's policy lets nobody evaluate within."""
        begun = time.monotonic()
        while not self.page.evaluate(expression):
            assert time.monotonic() - begun < PATIENCE_MS / 1e3, expression
            time.sleep(0.02)

    def faults(self, source: str) -> list[str]:
        """What axe finds on the page, of serious and critical impact."""
        self.page.evaluate(source)
        told = self.page.evaluate("axe.run({ resultTypes: ['violations'] })")
        return [
            f"{found['id']}: {node['target']} {node['failureSummary']}"
            for found in told["violations"]
            if found["impact"] in ("serious", "critical")
            for node in found["nodes"]
        ]

    def require_quiet(self) -> None:
        """No complaint, no report of the content policy, and nobody else was asked."""
        assert self.complaints == []
        assert self.page.evaluate("window.reports") == []
        assert [url for url in self.requests if not url.startswith((self.base, "about:", "data:"))] == []


class Chromium:
    """One browser for all tests."""

    def __init__(self, engine: Any) -> None:
        self._browser = engine.chromium.launch(executable_path=chromium(), args=list(_OPTIONS))

    @contextmanager
    def page(self, base: str, *, width: int = 1440, height: int = 900, **settings: Any) -> Iterator[Watched]:
        """A page; in the end it must have been quiet."""
        context = self._browser.new_context(viewport={"width": width, "height": height}, locale="en-GB", **settings)
        try:
            watched = Watched(context.new_page(), base)
            yield watched
        finally:
            context.close()

    def close(self) -> None:
        """End it."""
        self._browser.close()
