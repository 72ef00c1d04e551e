"""Writes the report of a sweep, one self-contained page: `python analysis/report.py [--store DIR] [--out DIR]`."""

import base64
import html
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in {None, ""}:
    # Run as a script, Python looks beside this file; the packages lie one folder up.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from markdown_it import MarkdownIt

from analysis.plot_tradeoffs import draw, parser, stores_of, write_atomic
from analysis.store import Stores
from ldm.errors import UserError

DESCRIPTION = """Writes what plot_tradeoffs.py writes, and report.html: figures, table, verdicts, protocols, missing
results and the check list against published numbers, in one page that needs no other file."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
div.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; }
"""


ANSWER = ("Recommendation", "crossings")
"""The section of the table and the figure that stand before all others, where there are these."""


def page(title: str, texts: Sequence[str], figures: Sequence[Path]) -> str:
    """A page of figures, held as data, and Markdown texts; the first text's head and the answer stand above all."""
    rendered = MarkdownIt("commonmark", {"html": False}).enable("table").render("\n\n".join(texts))
    rendered = rendered.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    head, *others = rendered.split("<h2>")
    sections = [f"<h2>{section}" for section in others]
    section, figure = ANSWER
    above = int(rendered.startswith(f"{head}<h2>{section}</h2>"))
    shown = "".join(map(_figure, sorted(figures, key=lambda path: path.stem != figure)))
    body = "".join([head, *sections[:above], shown, *sections[above:]])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n{body}</body></html>\n"
    )


def _figure(path: Path) -> str:
    held = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{html.escape(path.stem)}" src="data:image/svg+xml;base64,{held}"></figure>\n'


def write(
    stores: Stores, out: Path | None, sweep: str | None, allow_mixed: bool, overlay: bool, against: str | None
) -> Path:
    """The page's path, after everything that it is made of was written beside it.

    Raises: UserError as `plot_tradeoffs.draw` does.
    """
    written = draw(stores, out, sweep, allow_mixed, overlay, checklist=True, against=against)
    texts = [path.read_text(encoding="utf-8") for path in written if path.suffix == ".md"]
    folder = written[0].parent
    made = page(f"Report: {folder.name}", texts, [path for path in written if path.suffix == ".svg"])
    return write_atomic(folder / "report.html", made.encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0, or 2 with one sentence where the user can mend it."""
    command = parser()
    command.prog, command.description = "report.py", DESCRIPTION
    options = command.parse_args(arguments)
    try:
        path = write(
            stores_of(options),
            options.out,
            options.sweep,
            options.allow_mixed_protocols,
            options.overlay,
            options.against,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
