from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.eval import charts
from genrecall.eval.document import Facts, Figure, Section, Table, Text
from genrecall.eval.evaluation import Evaluation
from genrecall.eval.protocol import Protocol
from genrecall.eval.report import evaluation_report, sections, verdict
from genrecall.eval.significance import Interval

from .test_harness import Fixed, cases, run


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    targets = [1 + i % 30 for i in range(90)]
    good = Fixed("transition", [[target] for target in targets])
    weak = Fixed("generative", [[target] if place % 3 else [39] for place, target in enumerate(targets)])
    return run([weak, good, Fixed("popularity", [[1, 2]])], cases(targets)).with_invalid_sid_rate("generative", 0.0)


def test_a_simpler_channel_ahead_is_said_plainly(evaluation: Evaluation) -> None:
    sentence = verdict(evaluation)
    assert sentence.startswith("A simpler channel is ahead: transition beats generative, which reaches 67% of it")
    assert "p = 0.010" in sentence
    assert sentence in evaluation_report(evaluation).to_markdown()
    assert sentence in evaluation_report(evaluation).to_html()


def test_the_other_verdicts(evaluation: Evaluation) -> None:
    assert verdict(evaluation, "transition").startswith("The channel transition is ahead of the best other channel")
    assert verdict(evaluation, "absent") == ""
    same = run([Fixed("generative", [[1]]), Fixed("other", [[1]])], cases([1, 2]))
    assert "cannot be told apart" in verdict(same)


def test_markdown_has_the_protocol_and_bold_best(evaluation: Evaluation) -> None:
    text = evaluation_report(evaluation).to_markdown()
    assert evaluation.sentence() in text
    assert re.search(r"\| transition \| \*\*1\.0000\*\* \|", text)
    assert "0.0000%" in text


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({}, "ties in time shuffled (seed 0); history items are removed from the lists."),
        ({"tie_seed": None, "history": "kept"}, "source order; history items are kept in the lists."),
        ({"timed": False}, "source order; history items are removed from the lists."),
    ],
)
def test_every_table_states_ties_and_history(rules: dict[str, Any], told: str) -> None:
    found = run([Fixed("generative", [[1]])], cases([1, 2]), Protocol(split="x", ks=(5, 10), **rules))
    tables = [block for section in sections(found) for block in section.blocks if isinstance(block, Table)]
    assert len(tables) == 7  # main, two groups of slices, lists, cost, calibration, every metric
    for table in tables:
        for rule in told.rstrip(".").split("; "):
            assert rule in table.caption.lower()
    assert ("stand as the source lists them, which may leak" in tables[0].caption) is told.startswith("source")
    for table in tables[1:]:
        assert table.caption.lower().endswith(told)


def test_the_page_stands_alone_and_shows_every_section(evaluation: Evaluation) -> None:
    extra = Section(
        title="Stages <1>",
        blocks=[
            Facts(values={"import": "3 s", "bundle": "sha256:0123"}),
            Table(columns=["user", "items"], rows=[["u|1", "a <b> & c"]], words=True),
            Figure(svg="<svg id='x'><use href='#y'/></svg>", caption="from elsewhere"),
            Figure(png=b"\x89PNG", caption="a picture"),
            Text(words="first\n\nsecond", kind="note"),
        ],
    )
    report = evaluation_report(evaluation, title="A & B", extra=[extra], footer="made <here>")
    page = report.to_html()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"@import|url\(|<script|<link", page)
    assert "a &lt;b&gt; &amp; c" in page
    assert "data:image/svg+xml;base64," in page
    assert "data:image/png;base64," in page
    assert page.count("<section") == page.count("</section>") == 7
    assert "| u\\|1 | a <b> & c |" in report.to_markdown()


def test_a_table_needs_a_cell_for_each_column() -> None:
    with pytest.raises(AssertionError):
        Table(columns=["a", "b"], rows=[["1"]])


FINITE = st.floats(-1e4, 1e4, allow_nan=False)


@settings(deadline=None, max_examples=20)
@given(
    st.dictionaries(st.sampled_from("abcd&<"), st.lists(st.tuples(FINITE, FINITE), max_size=5).map(sorted), min_size=1)
)
def test_lines_are_wellformed_and_inside_the_picture(series: dict[str, list[tuple[float, float]]]) -> None:
    if not any(series.values()):
        return
    picture = ElementTree.fromstring(charts.lines(series, from_zero=False))
    height = float(picture.attrib["viewBox"].split()[3])
    for dot in picture.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(dot.attrib["cx"]) <= charts.WIDTH
        assert -0.1 <= float(dot.attrib["cy"]) <= height


def test_bars_and_dots_take_zeros_and_gaps() -> None:
    zero = Interval(mean=0, low=0, high=0)
    ElementTree.fromstring(charts.bars({"a": zero, "b": Interval(mean=0.5, low=0.4, high=0.6)}))
    ElementTree.fromstring(charts.dots(["x\n3 cases", "y"], {"a": [zero, None], "b": [zero, zero]}))
