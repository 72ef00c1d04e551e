"""Imports run one way: run.py -> experiments -> ldm, analysis -> ldm.records; and between the rooms of ldm as here.

The table is that of docs/architecture.md ("may import").
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ldm", "experiments", "hydra_plugins", "analysis", "benchmarks")
HYDRA = ("hydra", "omegaconf", "wandb")

EVERYWHERE = tuple(
    f"ldm.{name}"
    for name in (
        *("errors", "finite", "intact", "joined", "layers", "lines", "memory", "parts", "ranks", "records"),
        *("philox", "randomness"),
    )
)
ROOMS = {
    "pretrained": (),
    "first_stage": ("ldm.pretrained", "ldm.metrics"),
    "denoiser": (),
    "conditioning": (),
    "diffusion": ("ldm.conditioning.contract",),
    "samplers": ("ldm.diffusion",),
    "data": ("ldm.first_stage",),
    "metrics": ("ldm.pretrained",),
    "probes": ("ldm.data",),
    "training": (
        "ldm.pretrained",
        "ldm.first_stage",
        "ldm.denoiser",
        "ldm.conditioning",
        "ldm.diffusion",
        "ldm.samplers",
        "ldm.data",
        "ldm.metrics",
        "ldm.probes",
    ),
    "interop": (
        "ldm.pretrained",
        "ldm.first_stage",
        "ldm.denoiser",
        "ldm.conditioning",
        "ldm.diffusion",
        "ldm.samplers",
        "ldm.metrics",
    ),
}


def imported(text: str) -> Iterator[str]:
    """The full names of everything a module imports, at its top or inside of functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(package: str) -> list[tuple[str, str]]:
    """(file, imported name) for every import in a package."""
    return [(str(path.relative_to(ROOT)), name) for path in modules(package) for name in imported(path.read_text())]


def broken(package: str, forbidden: tuple[str, ...], but: tuple[str, ...] = ()) -> list[str]:
    """The imports of a package that are forbidden."""
    return [f"{file} imports {n}" for file, n in imports_of(package) if within(n, forbidden) and not within(n, but)]


@pytest.mark.long
def test_all_forms_of_import_are_seen():
    text = "import a.b as x\nfrom c import d, e\ndef f():\n    from g.h import i\n"
    assert set(imported(text)) == {"a.b", "c.d", "c.e", "g.h.i"}
    assert within("ldm.data.cache", ("ldm.data",))
    assert not within("ldm.database", ("ldm.data",))
    assert ("ldm/samplers/ddim.py", "ldm.diffusion.target.eps_from_x0") in imports_of("ldm")


def test_every_room_of_the_library_stands_in_the_table():
    rooms = {path.parent.name for path in (ROOT / "ldm").glob("*/*.py")}
    assert rooms == set(ROOMS)
    table = (ROOT / "docs" / "architecture.md").read_text()
    assert [room for room in rooms if f"| `ldm/{room}/` |" not in table] == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_table_allows(room):
    assert broken(f"ldm/{room}", ("ldm",), but=(f"ldm.{room}", *ROOMS[room], *EVERYWHERE)) == []


def test_the_table_has_no_circle():
    def reached(room: str, seen: tuple[str, ...]) -> None:
        assert room not in seen, f"circle: {' -> '.join((*seen, room))}"
        for name in ROOMS[room]:
            reached(name.split(".")[1], (*seen, room))

    for room in ROOMS:
        reached(room, ())


@pytest.mark.long
def test_the_library_knows_no_program_around_it():
    assert broken("ldm", (*HYDRA, "experiments", "analysis", "hydra_plugins", "benchmarks", "run")) == []


@pytest.mark.parametrize(
    "module", ["ldm/__init__.py", "ldm/records.py", "ldm/errors.py", "ldm/joined.py", "ldm/printed.py"]
)
def test_what_analysis_reads_imports_the_standard_library_alone(module):
    names = {name.split(".")[0] for name in imported((ROOT / module).read_text()) if not within(name, ("ldm.records",))}
    assert names <= sys.stdlib_module_names


@pytest.mark.long
def test_analysis_imports_records_and_nothing_heavier():
    light = tuple(f"ldm.{name}" for name in ("records", "joined", "errors", "printed", "rank_correlation"))
    assert broken("analysis", ("ldm",), but=light) == []
    assert broken("analysis", (*HYDRA, "experiments", "torch", "torchvision", "torch_fidelity", "rich")) == []


def test_analysis_starts_without_torch():
    code = "import sys, analysis.plot_tradeoffs; print(sorted({'torch', 'wandb', 'hydra'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout == "[]\n"


DOOR = "experiments/api.py"
"""The interface from Python, which joins the two."""


@pytest.mark.long
def test_experiments_import_neither_analysis_nor_the_program():
    assert {found.split()[0] for found in broken("experiments", ("analysis", "benchmarks", "run"))} == {DOOR}
    assert broken("experiments", ("benchmarks", "run")) == []
    assert broken("hydra_plugins", ("analysis", "benchmarks", "run", "ldm", "torch")) == []


@pytest.mark.long
def test_nothing_imports_the_interface_from_python():
    assert [found for package in PACKAGES for found in broken(package, ("experiments.api",))] == []


def test_every_package_with_code_is_listed_for_installation():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in modules(package)
        if path.parent.name != "__pycache__"
    }
    assert there - listed == set()


OWN = ("experiments", "analysis")
LAZY = ("analysis/plot_tradeoffs.py", "experiments/tracking/__main__.py")
"""Commands whose --help comes before what they draw with is imported, or that need a package for some of their work."""


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree but those that only a type checker reads."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not is_for_types(child):
            yield from running(child)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.AST, known: Collection[str]) -> set[str]:
    """The modules among `known` that a tree imports when it runs."""
    names = {name for node in running(tree) for name in imported_by(node)}
    return {name if name in known else name.rpartition(".")[0] for name in names} & set(known)


def imported_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph_of(package: str) -> dict[str, set[str]]:
    """By module of a package the modules of it that it imports, inside of functions too."""
    trees = {module_name(path): tree_of(path) for path in modules(package)}
    return {name: imported_modules(tree, trees) for name, tree in trees.items()}


def circle_in(graph: Mapping[str, Collection[str]]) -> list[str]:
    """The modules of one circle, in order; nothing where there is none."""
    done: set[str] = set()

    def below(name: str, above: list[str]) -> list[str]:
        if name in above:
            return above[above.index(name) :]
        if name not in done:
            for other in sorted(graph[name]):
                if found := below(other, [*above, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in graph if (found := below(name, []))), [])


def test_circles_are_found_and_imports_for_types_are_none():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    text = "from a import b\nif TYPE_CHECKING:\n    import c\ndef f():\n    from d import e\n    import a.x"
    assert imported_modules(ast.parse(text), {"a", "a.b", "a.x", "c", "d"}) == {"a.b", "a.x", "d"}


@pytest.mark.long
@pytest.mark.parametrize("package", OWN)
def test_no_circle_among_modules(package):
    graph = graph_of(package)
    assert sum(map(len, graph.values())) > len(graph)
    assert circle_in(graph) == []


@pytest.mark.long
@pytest.mark.parametrize("package", OWN)
def test_no_import_of_the_program_is_hidden_in_a_function(package):
    hidden = [
        f"{file} imports {name}"
        for path in modules(package)
        if (file := path.relative_to(ROOT).as_posix()) not in LAZY
        for function in ast.walk(tree_of(path))
        if isinstance(function, ast.FunctionDef | ast.Lambda)
        for node in ast.walk(function)
        for name in imported_by(node)
        if within(name, PACKAGES)
    ]
    assert hidden == []


def test_what_a_stage_is_knows_the_records_alone():
    names = {name for node in running(tree_of(ROOT / "experiments/stage.py")) for name in imported_by(node)}
    own = {name for name in names if within(name, PACKAGES)}
    assert own
    assert all(within(name, ("ldm.records",)) for name in own)
