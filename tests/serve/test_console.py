"""The console in a real browser: it works, it is quiet, it asks nobody else, and hostile words stay words."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.browser import Browser, chromium
from tests.serve.process import Served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine"),
]
HOSTILE = "<img src=x onerror='window.hacked=1'>\"'&lt;script&gt;"


@pytest.fixture
def browser() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_every_page_works_and_is_quiet(
    served: Served, browser: Browser, tmp_path: Path, width: int, height: int
) -> None:
    base = f"http://127.0.0.1:{served.port}"
    browser.size(width, height)
    rows = "document.querySelectorAll('.results tbody tr').length"
    browser.go(f"{base}/#/explore?user=u3")
    browser.until(f"{rows} === 10")
    assert browser.evaluate("document.querySelectorAll('.timeline li').length") > 3
    browser.go(f"{base}/#/explore?user=u3&tab=beams")
    browser.until("document.querySelectorAll('.beam').length > 4")
    browser.until("document.querySelectorAll('.beam-links path').length > 2")
    browser.evaluate("document.querySelector('.beam.leaf').focus()")
    assert browser.evaluate("document.querySelectorAll('.beam.lit').length") == 2
    browser.go(f"{base}/#/explore?user=u3&tab=lists")
    browser.until("document.querySelectorAll('.lists section').length === 3")
    browser.go(f"{base}/#/explore?mode=search&query=red%20candle")
    browser.until(f"{rows} > 3")
    assert browser.evaluate("document.querySelector('.results .title').textContent") == "red candle no 0"
    browser.evaluate("document.querySelector('.results .title').click()")
    browser.until("document.querySelectorAll('.drawer li').length > 0")
    for page, found in (("live", ".spark"), ("sids", ".sunburst path"), ("releases", ".release.active")):
        browser.go(f"{base}/#/{page}")
        browser.until(f"document.querySelector('{found}') !== null")
        wide = browser.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{page} is {wide} px wide"
        browser.shoot(tmp_path / f"{page}-{width}.png")
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith((base, "about:", "data:"))] == []


def test_both_languages_say_everything(served: Served, browser: Browser) -> None:
    browser.go(f"http://127.0.0.1:{served.port}/#/live")
    browser.until("document.querySelector('nav a') !== null")
    words = "import('/console/words.js').then((m) => fetch('/console/words.js').then((r) => r.text()))"
    text = browser.evaluate(words)
    tables = [part.split("};")[0] for part in text.split("= {")[1:3]]
    keys = [set(re.findall(r"(?:^|, |\n)\s*([a-z_]+): \"", table)) for table in tables]
    assert keys[0] == keys[1]
    assert len(keys[0]) > 80
    browser.evaluate("document.querySelector('.tools button').click()")
    assert browser.evaluate("document.querySelector('nav a').textContent") == "试验场"
    assert browser.evaluate("document.documentElement.lang") == "zh"


def test_hostile_words_stay_words(served: Served, browser: Browser) -> None:
    event = {"user_id": HOSTILE, "item_id": HOSTILE}
    assert served.call("POST", "/v1/events", {"events": [event]})[1]["accepted"] == 1
    browser.go(f"http://127.0.0.1:{served.port}/")
    browser.until("document.querySelector('.panel input') !== null")
    browser.evaluate(f"location.hash = '#/explore?user=' + encodeURIComponent({json.dumps(HOSTILE)})")
    browser.until("document.querySelector('.timeline .title')?.textContent.startsWith('<img')")
    assert browser.evaluate("document.querySelectorAll('main img').length") == 0
    assert browser.evaluate("window.hacked") is None
    assert browser.complaints() == []


def test_a_long_list_stays_usable(served: Served, browser: Browser) -> None:
    events = [{"user_id": "reader", "item_id": f"i{n % 40}", "timestamp": n} for n in range(1000)]
    assert served.call("POST", "/v1/events", {"events": events})[1]["accepted"] == 1000
    browser.go(f"http://127.0.0.1:{served.port}/#/explore?user=reader")
    browser.until("document.querySelectorAll('.timeline li').length > 3")
    # All of it is there with the next frame; how long that takes is the machine's affair.
    browser.evaluate(
        "(async () => { document.querySelector('.timeline .more button').click();"
        "await new Promise(requestAnimationFrame); return true; })()"
    )
    assert browser.evaluate("document.querySelectorAll('.timeline li').length") == 1000
