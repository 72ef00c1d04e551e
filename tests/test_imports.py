"""Imports run one way: run.py -> experiments -> ldm, analysis -> ldm.records; and between the rooms of ldm as here.

The table is that of docs/architecture.md ("may import").
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ldm", "experiments", "hydra_plugins", "analysis", "benchmarks")
HYDRA = ("hydra", "omegaconf", "wandb")

EVERYWHERE = ("ldm.errors", "ldm.layers", "ldm.parts", "ldm.records", "ldm.randomness")
ROOMS = {
    "pretrained": (),
    "first_stage": ("ldm.pretrained",),
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


def test_the_library_knows_no_program_around_it():
    assert broken("ldm", (*HYDRA, "experiments", "analysis", "hydra_plugins", "benchmarks", "run")) == []


@pytest.mark.parametrize("module", ["ldm/__init__.py", "ldm/records.py", "ldm/errors.py"])
def test_what_analysis_reads_imports_the_standard_library_alone(module):
    names = {name.split(".")[0] for name in imported((ROOT / module).read_text())}
    assert names <= sys.stdlib_module_names


def test_analysis_imports_records_and_nothing_heavier():
    assert broken("analysis", ("ldm",), but=("ldm.records", "ldm.errors")) == []
    assert broken("analysis", (*HYDRA, "experiments", "torch", "torchvision", "torch_fidelity", "rich")) == []


def test_analysis_starts_without_torch():
    code = "import sys, analysis.plot_tradeoffs; print(sorted({'torch', 'wandb', 'hydra'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout == "[]\n"


def test_experiments_import_neither_analysis_nor_the_program():
    for package in ("experiments", "hydra_plugins"):
        assert broken(package, ("analysis", "benchmarks", "run")) == []
    assert broken("hydra_plugins", ("ldm", "torch")) == []


def test_every_package_with_code_is_listed_for_installation():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in modules(package)
        if path.parent.name != "__pycache__"
    }
    assert there - listed == set()
