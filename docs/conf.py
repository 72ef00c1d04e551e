"""The site of these pages, which Sphinx builds from the root of the checkout (`make docs`, decision 0045).

Its pages are the Markdown that is read in the repository too, and `README.md` is the first of them. What Markdown has
no words for stands here: the order of the pages, and docstrings in the place of names.
"""

import re
import shutil
from pathlib import Path
from typing import Final

from sphinx.application import Sphinx

ROOT: Final = Path(__file__).parents[1]

NAVIGATION: Final = {
    "Start": ["docs/quick_start", "docs/own_images", "docs/choosing"],
    "Studies": ["docs/experiments", "docs/study", "docs/numbers"],
    "Running": ["docs/using", "docs/settings", "docs/data", "docs/clusters", "docs/gpu"],
    "Parts and Python": ["docs/custom_parts", "docs/weights", "docs/export", "docs/api", "docs/reference"],
    "Background": ["docs/performance", "docs/speedrun", "docs/architecture", "docs/decisions/README", "CHANGELOG"],
}
"""Captions and pages of the site's side bar. A page that stands nowhere fails the build."""

FOLDED: Final = {
    "docs/own_images": ["docs/notebooks/own_images"],
    "docs/experiments": [
        f"docs/experiments/{name}"
        for name in (
            "default_study",
            "measured",
            "tasks",
            "tokens",
            "quantisers",
            "denoiser_training",
            "representation",
            "autoguidance",
            "averages",
            "equivariance",
            "nested",
            "alignment",
            "coders",
            "autoencoder_zoo",
            "paper",
            "released_first_stages",
        )
    ],
    "docs/decisions/README": sorted(f"docs/decisions/{page.stem}" for page in ROOT.glob("docs/decisions/0*.md")),
}
"""Pages below others."""

FILE_NAME: Final = re.compile(r"\[[\w/]+\.md\]\(")
LISTED_NAME: Final = re.compile(r"^- \[`([\w.]+)`\]\([^)]+\)$", re.MULTILINE)
LABELS: Final = ("Shapes", "Units", "Raises", "Source")
CODE: Final = re.compile(r"`+([^`]+)`+")
PAGE: Final = re.compile(r"docs/([\w/]+)\.md")

project = "ldm-tradeoffs"
extensions = ["myst_nb", "sphinx.ext.autodoc"]  # pages and the notebook, docstrings
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "docs/**"]
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "docs"]
myst_enable_extensions = ["html_image"]
myst_heading_anchors = 4
nb_execution_mode = "off"
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
html_theme = "furo"
html_title = project
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
highlight_language = "text"
smartquotes = False


def as_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Adds what the site alone shows: titles in place of file names, docstrings in place of names, the navigation."""
    text = LISTED_NAME.sub(lambda found: documented(found[1]), FILE_NAME.sub("[](", source[0]))
    if name == root_doc:
        text += "".join(tree(pages, caption, "hidden") for caption, pages in NAVIGATION.items())
    if name in FOLDED:
        text += tree(FOLDED[name], "Pages", "titlesonly")
    source[0] = text


def tree(pages: list[str], caption: str, shown: str) -> str:
    """The lines that put pages below the one that they stand in."""
    return "\n".join(
        ["\n\n```{toctree}", f":{shown}:", f":caption: {caption}", *(f"/{page}" for page in pages), "```\n"]
    )


def documented(name: str) -> str:
    """The lines that show the docstrings of a class with its methods, or of a function."""
    kind = "class" if name.rpartition(".")[2][0].isupper() else "function"
    return f"```{{eval-rst}}\n.. auto{kind}:: {name}\n```"


def as_fields(app: Sphinx, kind: str, name: str, of: object, options: object, lines: list[str]) -> None:
    """Rewrites a docstring as Sphinx wants it: two backquotes, links to pages, and by itself what is named."""
    paragraphs = [" ".join(one.split()) for one in "\n".join(lines).split("\n\n")]
    lines[:] = []
    for paragraph in paragraphs:
        marked = PAGE.sub(r":doc:`/docs/\1`", CODE.sub(r"``\1``", paragraph))
        text, *named = named_in(of).split(marked)
        lines += [text, ""]
        for what, content in zip(named[::2], named[1::2], strict=True):
            lines += [f":{what}: {content}" if what.startswith(LABELS) else f"* {as_code(what)}: {content}", ""]


def as_code(names: str) -> str:
    """Names, with commas between, as code."""
    return ", ".join(f"``{name}``" for name in names.replace("`", "").split(", "))


def named_in(part: object) -> re.Pattern[str]:
    """What stands before a colon: Shapes, Units, Raises, Source, and the names of what a class holds."""
    bases = [vars(base) for base in getattr(part, "__mro__", ())]
    held = {name for base in bases for name in (*base, *base.get("__annotations__", {}))}
    word = "`*(?:" + "|".join(sorted(map(re.escape, held.union(LABELS)))) + ")`*"
    return re.compile(rf"(?:^|(?<=[.;] ))({word}(?:, {word})*(?: of [^:.]+)?): ")


def in_short(
    app: Sphinx, kind: str, name: str, of: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Leaves out of a signature what says nothing: defaults without a text, arguments where there is no constructor."""
    if signature is not None:  # a property has none
        signature = "" if signature.startswith("(*args") else re.sub(r"<[^<>]+>", "...", signature)
    return signature, returns


def first_page(app: Sphinx, failed: Exception | None) -> None:
    """Makes the README what a browser opens of the folder."""
    if failed is None:
        shutil.copyfile(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app: Sphinx) -> None:
    """What Sphinx calls of this file."""
    app.connect("source-read", as_pages)
    app.connect("autodoc-process-docstring", as_fields)
    app.connect("autodoc-process-signature", in_short)
    app.connect("build-finished", first_page)
