"""The page itself: sections of Markdown, charts and pictures, in one document with its style and its scripts."""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from markdown_it import MarkdownIt

from analysis.page.charts import Chart
from analysis.page.gallery import data_uri

ANSWER = "Recommendation"
"""The section that stands before all others."""

CELLS, FIGURES = "Cells", "Figures"

BEFORE_PICTURES = ("Which cells are better", "What limits each cell")
"""Sections that stand before the pictures, in this order."""

OPEN = ("First stages, on held-out images", "Missing", "Results that differ between stores")
"""Further sections that are not folded."""


def document(
    title: str,
    texts: Sequence[str],
    answered_by: Sequence[str],
    charts: Sequence[Chart],
    pictures: Mapping[str, str],
) -> str:
    """The page: Markdown texts, of which the first one's head stands above all, charts, and sections of pictures.

    `answered_by`: names of the charts that stand with the recommendation, where there is one.
    """
    (heading, head), *parts = _parts("\n\n".join(texts))
    sections: dict[str, str] = {}
    for name, body in parts:
        sections[name] = sections.get(name, "") + _tables(body)
    answers = [chart for name in answered_by for chart in charts if chart.name == name and ANSWER in sections]
    others = [chart for chart in charts if chart not in answers]
    if answers:
        sections[ANSWER] += "".join(map(figure, answers))
    shown = {name: sections.pop(name) for name in (ANSWER, CELLS) if name in sections}
    shown[FIGURES] = "".join(map(figure, others))
    shown |= {name: sections.pop(name) for name in BEFORE_PICTURES if name in sections}
    shown |= pictures
    body = "".join(_section(name, text, is_folded=False) for name, text in shown.items())
    body += "".join(_section(name, text, is_folded=name not in OPEN) for name, text in sections.items())
    return _page(title, heading, head, body, [*shown, *sections], charts)


def _parts(markdown: str) -> list[tuple[str, str]]:
    """The headings of the two highest levels as HTML, each with what stands under it."""
    rendered = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    _, *parts = re.split(r"<h[12]>(.*?)</h[12]>\n?", rendered)
    return list(zip(parts[0::2], parts[1::2], strict=True))


def _page(title: str, heading: str, head: str, body: str, names: Iterable[str], charts: Sequence[Chart]) -> str:
    links = "".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in names)
    told = {chart.name: [panel.to_json() for panel in chart.panels] for chart in charts}
    data = json.dumps(told, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    if "<pre>" in head:
        head = f"<details><summary>the command that repeats it</summary>{head}</details>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_asset('page.css')}</style></head><body>\n"
        f"<header><h1>{heading}</h1>{head}</header>"
        f'<nav aria-label="sections">{links}<button type="button" id="scheme" title="light, dark, or as the system">'
        f"scheme: system</button></nav>\n<main>{body}</main>"
        f'<script type="application/json" id="charts">{data}</script>'
        f"<script>{_asset('plotly-basic.min.js')}</script><script>{_asset('page.js')}</script></body></html>\n"
    )


def _section(name: str, body: str, is_folded: bool) -> str:
    heading = f"<h2>{name}</h2>"
    if is_folded:
        return f'<section id="{_anchor(name)}"><details><summary>{heading}</summary>{body}</details></section>\n'
    return f'<section id="{_anchor(name)}">{heading}{body}</section>\n'


def figure(chart: Chart) -> str:
    """A figure of the page: its words, a place for each chart, and what can be taken away."""
    words = chart.words
    panels = "".join(
        f'<div><div class="heading">{html.escape(panel.heading)}</div>'
        f'<div class="value">{html.escape(panel.value if panel.value != panel.heading else "")}</div>'
        f'<div class="chart" data-chart="{chart.name}" data-panel="{index}"></div></div>'
        for index, panel in enumerate(chart.panels)
    )
    taken = [_download(f"{chart.name}.csv", chart.csv.encode(), "text/csv", "numbers (CSV)")] if chart.panels else []
    printed = ""
    if chart.print_file is not None:
        # Once: shown where scripts do not run or draw no chart, and what the link below takes away where they do.
        address = data_uri(chart.print_file.read_bytes(), "image/svg+xml")
        shown = "print-file" if chart.panels else "print-file alone"
        printed = f'<img class="{shown}" alt="{html.escape(words.title)}" src="{address}">'
        taken.append(f'<a class="take-print-file" download="{html.escape(chart.print_file.name)}">figure (SVG)</a>')
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in words.notes)
    notes = f"<details><summary>how to read it</summary>{notes}</details>" if notes else ""
    facts = "".join(f'<p class="facts">{html.escape(fact)}</p>' for fact in words.facts)
    return (
        f'<figure class="figure" id="figure-{chart.name}"><h3>{html.escape(words.title)}</h3>{facts}'
        f'<div class="panels panels-{min(len(chart.panels), 3)}">{panels}</div>{printed}{notes}'
        f'<p class="taken">{" · ".join(taken)}</p></figure>\n'
    )


def _download(name: str, content: bytes, kind: str, said: str) -> str:
    return f'<a download="{html.escape(name)}" href="{data_uri(content, kind)}">{said}</a>'


def _tables(body: str) -> str:
    """Tables in boxes that scroll by themselves."""
    return body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")


def _anchor(name: str) -> str:
    return re.sub(r"\W+", "-", html.unescape(name).lower()).strip("-")


def _asset(name: str) -> str:
    """A file of the page, which its own end tag would end."""
    return (files("analysis.page") / "assets" / name).read_text(encoding="utf-8").replace("</script", "<\\/script")
