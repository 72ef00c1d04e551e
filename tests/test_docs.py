"""The site of docs/: what it shows that the pages do not say, and that what leads nowhere fails the build by name."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from experiments import api

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "docs" / "conf.py"


@pytest.fixture(scope="module")
def conf() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_conf", CONF)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(root: Path, pages: dict[str, str]) -> subprocess.CompletedProcess:
    """Builds a checkout of these pages as `make docs` does, with those of docs/ but `unlisted` in the navigation."""
    for name, text in pages.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    listed = [name.removesuffix(".md") for name in pages if name.startswith("docs/") and "unlisted" not in name]
    own = f"\nNAVIGATION, FOLDED = {{'Start': {listed}}}, {{}}\n"
    (root / "docs" / "conf.py").write_text(CONF.read_text() + own)
    shutil.copy(ROOT / "docs" / "site.css", root / "docs")
    command = re.search(r"\$\(BIN\)/python (-m sphinx .*)", (ROOT / "Makefile").read_text())[1].split()
    return subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True)


@pytest.mark.long
def test_every_link_that_leads_nowhere_is_named(tmp_path):
    pages = {
        "README.md": "# First\n[one](docs/one.md)\n",
        "docs/one.md": "# One\n[a](two.md#there)\n[b](two.md#not-there)\n[c](three.md)\n[d](#nor-here)\n![e](no.png)\n",
        "docs/two.md": "# Two\n## There\n[home](../README.md)\n",
        "docs/unlisted.md": "# Unlisted\n",
    }
    done = build(tmp_path, pages)
    assert done.returncode == 1
    for where in (r"one.md:\d+: .*'docs/two': 'not-there'", r"one.md:\d+: .*'three.md'", r"one.md:\d+: .*'nor-here'"):
        assert re.search(where, done.stderr), done.stderr
    assert re.search(r"one.md:\d+: .*no.png", done.stderr)
    assert re.search(r"unlisted.md: .*isn't included in any toctree", done.stderr)
    assert "'there'" not in done.stderr


@pytest.mark.long
def test_pages_without_faults_become_a_site(tmp_path):
    pages = {
        "README.md": "# First\n\nSee [docs/one.md](docs/one.md#by-steps).\n",
        "docs/one.md": "# One\n\n## By steps\n\n- [`ldm.errors.UserError`](../ldm/errors.py)\n",
    }
    done = build(tmp_path, pages)
    assert (done.returncode, done.stderr) == (0, "")
    first = (tmp_path / "build/docs/index.html").read_text()
    assert 'href="docs/one.html#by-steps"' in first
    assert ">By steps<" in first.replace('<span class="std std-ref">', "").replace("</span>", "")
    assert "docs/one.md" not in first
    assert api.UserError.__doc__.splitlines()[0] in (tmp_path / "build/docs/docs/one.html").read_text()


class Sized:
    """Has a `side`."""

    side: int


@pytest.mark.parametrize(
    ("part", "docstring", "shown"),
    [
        (None, "The rate of `x`.", ["The rate of ``x``."]),
        (None, "A mean. Shapes: (N,).", ["A mean.", ":Shapes: (N,)."]),
        (
            None,
            "A mean\nof many.\n\nShapes: x (N,)\nor (). Raises: UserError where\nnone is.",
            ["A mean of many.", ":Shapes: x (N,) or ().", ":Raises: UserError where none is."],
        ),
        (None, "Shapes of its calls: (N,).", [":Shapes of its calls: (N,)."]),
        (None, "Read docs/numbers.md. side: none.", ["Read :doc:`/docs/numbers`. side: none."]),
        (
            Sized,
            "Sized. `side`: in pixels; it of all. Raises: none.",
            ["Sized.", "* ``side``: in pixels; it of all.", ":Raises: none."],
        ),
        (Sized, "Read docs/numbers.md. side: in pixels.", ["Read :doc:`/docs/numbers`.", "* ``side``: in pixels."]),
    ],
)
def test_docstrings_become_fields(conf, part, docstring, shown):
    lines = docstring.splitlines()
    conf.as_fields(None, "class", "", part, None, lines)
    assert [line.strip() for line in lines if line] == shown


def test_all_names_of_the_interface_are_listed(conf):
    listed = {found[1] for found in conf.LISTED_NAME.finditer((ROOT / "docs/reference.md").read_text())}
    own = {name.rpartition(".")[2] for name in listed if name.startswith("experiments.api.")}
    assert own | {"UserError"} == set(api.__all__)
    for name, path in re.findall(
        r"^- \[`([\w.]+)`\]\((\S+)\)$", (ROOT / "docs/reference.md").read_text(), re.MULTILINE
    ):
        assert path == "../" + name.rpartition(".")[0].replace(".", "/") + ".py"


def test_every_experiment_is_listed():
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("experiments.md", "experiments/paper.md"))
    missing = [file.stem for file in (ROOT / "conf/experiment").glob("*.yaml") if f"`{file.stem}`" not in pages]
    assert not missing
