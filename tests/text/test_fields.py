from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text.conftest import make_items

from genrecall.errors import ConfigError, DataError
from genrecall.text.cleaning import clean
from genrecall.text.fields import TextTemplate, default_template


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("Salt &amp;amp; Pepper", "Salt & Pepper"),
        ("<p>Soft<br/>towel</p>", "Soft towel"),
        ("fits a < b and I <3 it", "fits a < b and I <3 it"),
        ("ink <!-- .headerM {color:#000;} --> cartridge", "ink cartridge"),
        ("ink <!-- .headerM {color:#000;", "ink"),
        ("<style type='x'>p {margin: 0}</style>pen", "pen"),
        (".APlusHeader, .b {font-size: 15px; color: red} pen", "pen"),
        ("Great pen. .headerM {color:red}", "Great pen."),
        ("set {of three}", "set {of three}"),
        ("a\u200b\ttab\x00 and\n line", "a tab and line"),
        ("", ""),
    ],
)
def test_text_is_made_plain(raw: str, plain: str) -> None:
    assert clean(raw) == plain


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("{title}. {brand}. {categories}", ["Pen", "Acme", "Office"], "Pen. Acme. Office"),
        ("{title}. {brand}. {categories}", ["Pen", "", "Office"], "Pen. Office"),
        ("{title}. {brand}. {categories}", ["", "", "Office"], "Office"),
        ("{title}. {brand}. {categories}", ["Pen", "", ""], "Pen"),
        ("{title}. {brand}. {categories}", ["", "", ""], ""),
        ("{title}. {brand}.", ["Pen", ""], "Pen."),
        ("{title} ({brand}), {kind}", ["Pen", "Acme", "ink"], "Pen (Acme), ink"),
        ("{title} ({brand}), {kind}", ["Pen", "", "ink"], "Pen, ink"),
        ("{title} ({brand})", ["Pen", ""], "Pen"),
        ("Brand: {brand}; title: {title}", ["", "Pen"], "title: Pen"),
        ("Brand: {brand}; title: {title}", ["Acme", "Pen"], "Brand: Acme; title: Pen"),
        ("{title}. {brand}", ["It works!", "Acme"], "It works! Acme"),
        ("{title}，品牌：{brand}。类目：{c}", ["钢笔", "", "文具"], "钢笔。类目：文具"),
        ("《{title}》{brand}", ["", "Acme"], "Acme"),
        ("{title}{brand}", ["Pen", "Acme"], "PenAcme"),
        ("{{raw}} {title}", ["Pen"], "{raw} Pen"),
        ("{title}. {brand}", ["<b>&nbsp;</b>", "Acme"], "Acme"),
    ],
)
def test_empty_fields_leave_nothing_dangling(template: str, values: list[str], text: str) -> None:
    assert TextTemplate(text=template).fill(values) == text


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["", "Pen", "Acme", "red ink"]), min_size=3, max_size=3))
def test_any_mix_of_empty_fields_is_a_clean_list(values: list[str]) -> None:
    text = TextTemplate(text="{a}. {b} ({c})").fill(values)
    assert text.strip(" .") == text
    assert text.count("(") == text.count(")") == bool(values[2])
    assert all(value in text for value in values)


@pytest.mark.parametrize("text", ["no column", "{", "{}", "{title!r}", "{price:.2f}", "{ title }", "{0", "title}"])
def test_malformed_templates_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="template cannot be read"):
        TextTemplate(text=text)


def test_unknown_column_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="columns that the items do not have") as caught:
        TextTemplate(text="{title}. {colour}").render(make_items(brand=["Acme"]))
    assert caught.value.seen.startswith("{colour}")
    assert "title, brand" in caught.value.allowed or "brand, title" in caught.value.allowed


def test_other_types_of_column_are_written() -> None:
    items = make_items(
        title=["Pen", None],
        price=pa.array([0.85, None], pa.float32()),
        tags=pa.array([["red", "ink"], ["blue"]]),
        year=[1999, 2001],
    )
    template = TextTemplate(text="{title}, {price}, {tags}, {year}")
    assert template.render(items) == ["Pen, 0.85, red, ink, 1999", "blue, 2001"]


def test_item_without_text_is_an_error_with_examples() -> None:
    items = make_items(title=["Pen", " ", None, "<br>"])
    with pytest.raises(DataError, match="3 of 4 items have no text") as caught:
        TextTemplate(text="{title}").render(items)
    assert "i1, i2, i3" in caught.value.seen
    assert "--template" in caught.value.fix
    assert "--drop-textless" not in caught.value.fix  # an import does not know that <br> is no text


def test_error_names_the_option_that_leaves_textless_items_out() -> None:
    with pytest.raises(DataError, match="2 of 3 items have no text") as caught:
        TextTemplate(text="{title}").render(make_items(title=["Pen", " ", None]))
    assert "--drop-textless" in caught.value.fix


def test_texts_are_capped() -> None:
    assert TextTemplate(text="{title}", max_characters=8).fill(["a pen for everybody"]) == "a pen fo"


def test_default_template_takes_text_in_order_and_no_ids() -> None:
    items = make_items(
        terms=["ink"], source_id=["B01"], description=["d"], category_fine=["f"], category_coarse=["c"],
        brand=["Acme"], title=["Pen"], price=[1.0], url=["http://x"], genres=[""], keywords=["Pen"],
    )  # fmt: skip
    assert (
        default_template(items).text == "{title}. {brand}. {category_fine}. {category_coarse}. {description}. {terms}"
    )


def test_default_template_without_any_text_still_names_the_title() -> None:
    items = make_items(title=["", ""])
    assert default_template(items).text == "{title}"
