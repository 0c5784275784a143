"""A report: titled sections of text, facts, tables and figures, as Markdown or as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from genrecall.eval.page import STYLE


@dataclass(frozen=True, kw_only=True)
class Text:
    """Paragraphs.

    Attributes:
        words: plain text; an empty line starts a paragraph.
        kind: ``plain``, ``note`` (small print) or ``finding`` (set off: what the reader must not miss).
    """

    words: str
    kind: str = "plain"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Named values, side by side."""

    values: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of strings.

    Attributes:
        columns: heads; the first column is left-aligned, the others right-aligned unless ``words`` is set.
        rows: one string a column.
        bold: (row, column) places of the best values.
        words: whether all columns hold words, to be left-aligned.
        caption: below the table.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: frozenset[tuple[int, int]] = frozenset()
    words: bool = False
    caption: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), "a row has other columns than the head"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture.

    Attributes:
        svg: one of :mod:`genrecall.eval.charts` (set inline: it takes the page's colours) or any other SVG document.
        png: bytes of a PNG, instead of ``svg``.
        caption: what there is to see; the text that Markdown shows in its place.
    """

    svg: str = ""
    png: bytes = b""
    caption: str = ""


Block = Text | Facts | Table | Figure


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled part of a report."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A page.

    Attributes:
        title: of the page.
        summary: one or two sentences under the title.
        sections: in reading order.
        footer: small print: digests, versions.
    """

    title: str
    summary: str = ""
    sections: Sequence[Section] = field(default_factory=tuple)
    footer: str = ""

    def to_markdown(self) -> str:
        """The report as Markdown; figures appear by their captions only."""
        parts = [f"# {self.title}"]
        if self.summary:
            parts.append(self.summary)
        for section in self.sections:
            parts.append(f"## {section.title}")
            parts += [text for block in section.blocks if (text := markdown(block))]
        if self.footer:
            parts.append(f"_{self.footer}_")
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """The report as one HTML document that loads nothing from anywhere."""
        sections = "\n".join(
            f'<section id="s{number}"><h2>{escape(section.title)}</h2>\n'
            + "\n".join(html(block) for block in section.blocks)
            + "\n</section>"
            for number, section in enumerate(self.sections)
        )
        links = "".join(
            f'<a href="#s{number}">{escape(section.title)}</a>' for number, section in enumerate(self.sections)
        )
        contents = f"<nav>{links}</nav>" if len(self.sections) > 2 else ""
        summary = f'<p class="summary">{escape(self.summary)}</p>' if self.summary else ""
        footer = f"<footer>{escape(self.footer)}</footer>" if self.footer else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style></head>\n<body><main>"
            f"<header><h1>{escape(self.title)}</h1>{summary}{contents}</header>\n{sections}\n{footer}"
            "</main></body></html>\n"
        )


def markdown(block: Block) -> str:
    """One block as Markdown."""
    if isinstance(block, Text):
        return f"> {block.words}" if block.kind == "finding" else block.words
    if isinstance(block, Facts):
        return "\n".join(f"- {name}: {value}" for name, value in block.values.items())
    if isinstance(block, Figure):
        return ""
    align = ["---", *(["---" if block.words else "---:"] * (len(block.columns) - 1))]
    lines = [_markdown_row(block.columns), _markdown_row(align)]
    for place, row in enumerate(block.rows):
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in row]
        lines.append(
            _markdown_row([f"**{cell}**" if (place, col) in block.bold else cell for col, cell in enumerate(cells)])
        )
    return "\n".join(lines) + (f"\n\n{block.caption}" if block.caption else "")


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def html(block: Block) -> str:
    """One block as HTML."""
    if isinstance(block, Text):
        return "\n".join(f'<p class="{block.kind}">{escape(part)}</p>' for part in block.words.split("\n\n") if part)
    if isinstance(block, Facts):
        pairs = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in block.values.items())
        return f'<dl class="facts">{pairs}</dl>'
    if isinstance(block, Figure):
        caption = f"<figcaption>{escape(block.caption)}</figcaption>" if block.caption else ""
        return f"<figure>{_picture(block)}{caption}</figure>"
    head = "".join(f"<th>{escape(name)}</th>" for name in block.columns)
    rows = []
    for place, row in enumerate(block.rows):
        cells = "".join(
            f'<td class="best">{escape(cell)}</td>' if (place, col) in block.bold else f"<td>{escape(cell)}</td>"
            for col, cell in enumerate(row)
        )
        rows.append(f"<tr>{cells}</tr>")
    caption = f'<p class="note">{escape(block.caption)}</p>' if block.caption else ""
    kind = ' class="words"' if block.words else ""
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{caption}'
    )


def _picture(figure: Figure) -> str:
    if figure.svg.startswith('<svg class="chart"'):
        return figure.svg
    # Other people's SVG goes into an image of its own, so that its ids and styles touch nothing else.
    kind, data = ("png", figure.png) if figure.png else ("svg+xml", figure.svg.encode())
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{escape(figure.caption, quote=True)}" src="data:image/{kind};base64,{encoded}">'
