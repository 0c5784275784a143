"""The console in a real browser: it works, it is quiet, it asks nobody else, and hostile words stay words."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from genrecall.catalog.report import NOTES, PROBLEMS
from genrecall.serve import problems
from tests.serve import browser, shop
from tests.serve.browser import Chromium, Watched
from tests.serve.process import Served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing())),
]
ROWS = ".results tbody tr"
PLACES = {
    "explore": ".empty button",
    "explore?user=u3": ROWS,
    "explore?user=u3&tab=beams": ".beam-links path",
    "explore?user=u3&tab=lists": ".lists section",
    "explore?user=u3&tab=compare": ".versus li",
    "explore?user=u3&tab=json": "pre.json",
    "explore?mode=search&query=red%20candle": ROWS,
    "explore?user=u3&open=i9": ".drawer h3",
    "sids": ".near-list li",
    "live": ".quantiles",
    "experiments": ".card table",
    "releases": ".release.candidate",
    "data": ".curve polyline",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with shop.serving(shop.build(tmp_path_factory.mktemp("shop"))) as served:
        for user in range(8):
            served.recommend(user_id=f"u{user}", k=3)
        yield served


@pytest.fixture(scope="module")
def engine() -> Iterator[Chromium]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = Chromium(playwright)
        yield opened
        opened.close()


def _base(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}"


@pytest.fixture
def page(shown: Served, engine: Chromium) -> Iterator[Watched]:
    with engine.page(_base(shown)) as opened:
        yield opened
        opened.require_quiet()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_every_place_works_fits_and_is_accessible(shown: Served, engine: Chromium, width: int, scheme: Any) -> None:
    source = browser.axe()
    with engine.page(_base(shown), width=width, height=850, color_scheme=scheme) as opened:
        for place, found in PLACES.items():
            opened.go(place, found)
            wide = opened.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{place} is {wide} px wide"
            assert opened.page.evaluate("document.documentElement.dataset.theme") == scheme
            if source is not None:
                assert opened.faults(source) == [], place
            opened.require_quiet()


@pytest.mark.skipif(browser.axe() is None, reason="no axe-core: pip install '.[browser]'")
def test_the_judge_of_accessibility_judges(page: Watched) -> None:
    page.go("live", "h1")
    page.page.evaluate(
        "document.querySelector('h1').insertAdjacentElement('afterend', document.createElement('button'))"
    )
    assert any(fault.startswith("button-name") for fault in page.faults(str(browser.axe())))


def test_a_history_is_edited_and_the_link_brings_it_back(page: Watched) -> None:
    page.go("explore?user=u3", ROWS)
    assert page.count(ROWS) == 10
    before = page.count(".timeline .past")
    assert before > 3
    page.page.locator(".timeline .remove").last.click()
    page.until(f"document.querySelectorAll('.timeline .past').length === {before - 1}")
    page.page.locator(".results .title").first.click()
    page.page.locator(".drawer button.primary").click()
    page.until(f"document.querySelectorAll('.timeline .past').length === {before}")
    page.until("!document.querySelector('.stage.busy')")
    link, titles = page.page.url, page.page.locator(".results .title").all_inner_texts()
    page.go(link.partition("#/")[2], ROWS)
    assert page.page.locator(".results .title").all_inner_texts() == titles
    assert page.count(".timeline .past") == before


def test_the_beam_lights_its_ancestry(page: Watched) -> None:
    page.go("explore?user=u3&tab=beams", ".beam-links path")
    page.page.locator(".beam.leaf").first.focus()
    assert page.count(".beam.lit") == 3
    assert page.count(".beam.dim") > 0


def test_two_bundles_answer_side_by_side(page: Watched) -> None:
    page.go("explore?user=u3&tab=compare&channels=generative", ".versus li")
    assert page.count(".versus") == 2
    digests = page.page.locator(".versus code").all_inner_texts()
    assert len(set(digests)) == 2
    page.go("releases", ".release.candidate")
    assert page.page.locator(".release .digest").all_inner_texts()[0].startswith(digests[0])


def test_the_keyboard_is_enough(page: Watched) -> None:
    page.go("explore?user=u3", ROWS)
    keys, focused = page.page.keyboard, "document.activeElement"
    page.page.locator("[role=tab][aria-selected=true]").focus()
    keys.press("ArrowRight")
    page.find(".beam-links path")
    assert page.page.evaluate(f"{focused}.dataset.name") == "beams"
    keys.press("Home")
    page.find(ROWS)
    page.page.locator(".results .title").first.focus()
    title = page.page.evaluate(f"{focused}.textContent")
    keys.press("Enter")
    page.find(".drawer h2")
    for _ in range(40):
        keys.press("Tab")
        assert page.page.evaluate(f"{focused} === document.body || !!{focused}.closest('.drawer')")
    keys.press("Escape")
    page.until("!document.querySelector('.drawer')")
    assert page.page.evaluate(f"{focused}.textContent") == title
    page.page.locator("[data-key=user]").fill("u1")
    page.find(".suggestions [role=option]")
    keys.press("ArrowDown")
    assert page.page.locator("[data-key=user]").get_attribute("aria-activedescendant")
    chosen = page.page.locator("[role=option][aria-selected=true]").inner_text()
    keys.press("Enter")
    page.until(f"document.querySelector('.who b').textContent === {chosen!r}")
    page.page.locator("[data-key=theme]").focus()
    theme = page.page.evaluate("document.documentElement.dataset.theme")
    keys.press("Enter")
    assert page.page.evaluate("document.documentElement.dataset.theme") != theme


def test_both_languages_say_everything(page: Watched) -> None:
    page.go("live", "nav a")
    tables = [
        page.page.evaluate(f"import('/console/words_{name}.js').then((words) => words.{name.upper()})")
        for name in ("en", "zh")
    ]
    services = re.compile("(channel|outcome|why|detail|shed|worker|ready|code|finding|action|count)_")
    own = [{key for key in table if not services.match(key)} for table in tables]
    assert own[0] == own[1]
    assert len(own[0]) > 250
    for name in PROBLEMS | NOTES:
        assert {f"finding_{name}", f"action_{name}"} <= set(tables[1])
    for key in own[0]:
        places = [sorted(re.findall(r"\{(\w+)\}", table[key])) for table in tables]
        assert places[0] == places[1], key
    assert {key[5:] for key in tables[1] if key.startswith("code_")} <= set(problems.STATUS)
    page.page.locator("[data-key=language]").click()
    assert page.page.locator("nav a").first.inner_text() == "试验场"
    assert page.page.evaluate("document.documentElement.lang") == "zh"
    assert page.page.evaluate("document.activeElement.dataset.key") == "language"
    latin = re.compile(r"[A-Za-z]{4,}")
    for place in ("live", "sids", "experiments", "releases", "data"):
        page.go(place, PLACES[place])
        for said in page.page.locator("h1, h2, h3, th, dt, .figure > span:first-child").all_inner_texts():
            assert not latin.search(re.sub(r"(?i)SID|CUPED|genrecall|items|users|wide|\w+\.parquet", "", said)), said


def test_hostile_words_stay_words(page: Watched, shown: Served) -> None:
    for place in (
        "explore?mode=search&query=onerror&k=20",
        "explore?items=i0|i1|i2",
        "sids?item=i0",
        "explore?open=i3",
    ):
        page.go(place, "text=onerror")
    hostile = shop.HOSTILE.replace("'", "")
    shown.call("POST", "/v1/events", {"events": [{"user_id": hostile, "item_id": "i1"}]})
    page.go("live", "h1")
    page.page.evaluate("(text) => { location.hash = '#/explore?user=' + encodeURIComponent(text); }", hostile)
    page.find(".who b")
    assert page.page.locator(".who b").inner_text() == hostile
    assert page.page.evaluate("document.querySelectorAll('main img, main script, dialog img').length") == 0
    assert page.page.evaluate("window.hacked") is None


def test_ten_thousand_items_scroll_like_ten(page: Watched) -> None:
    page.go("sids", ".window-row")
    rows, inner = ".window-row[data-place]", page.page.locator("[role=tabpanel], .window").first
    assert f"{shop.ITEMS:,}" in page.page.locator("main").inner_text()
    assert page.count(rows) < 60
    first = page.page.locator(f"{rows} button").first
    first.focus()
    page.page.keyboard.press("End")
    page.until(f"document.activeElement.closest('.window-row')?.dataset.place === '{shop.ITEMS - 1}'")
    assert page.count(rows) < 60
    assert inner.evaluate("(element) => element.scrollHeight") > 40 * shop.ITEMS
    page.page.keyboard.press("Enter")
    page.find(".drawer h2")


def test_a_long_history_stays_usable(page: Watched, shown: Served) -> None:
    events = [{"user_id": "reader", "item_id": f"i{n}", "timestamp": 1_600_000_000 + 3600 * n} for n in range(1000)]
    assert shown.call("POST", "/v1/events", {"events": events})[1]["accepted"] == 1000
    page.go("explore?user=reader", ".timeline .more button")
    page.page.locator(".timeline .more button").click()
    page.until("document.querySelectorAll('.timeline .past').length === 1000")
    assert page.count(".timeline .day") > 30


def test_what_fails_says_so_and_can_be_tried_again(shown: Served, engine: Chromium) -> None:
    with engine.page(_base(shown)) as opened:
        opened.page.route("**/v1/data", lambda route: route.abort())
        opened.go("data", ".failed")
        assert opened.page.locator(".failed p").inner_text() == "The service cannot be reached."
        opened.page.unroute("**/v1/data")
        opened.page.locator(".failed button").click()
        opened.find(PLACES["data"])
        opened.go("sids?item=nobody", ".failed")
        assert "Not found" in opened.page.locator(".failed p").inner_text()
        opened.go("explore?request=forgotten", ".failed")
