"""Every setting has a type, a range and a unit, and what is not so is refused in one sentence before anything runs."""

import copy
import functools
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from program import ROOT

from experiments import written_help
from experiments.overview import help_for, overview, read
from experiments.schema import CONF
from experiments.settings import check_settings, declared, defaults, reference, spelled
from ldm.errors import UserError
from ldm.parts import Option

GIVEN = "given"
FILES = ("folder", "cifar10", "lsun", "coco", "imagenet", "places", "webdataset", "parquet")
CONFIGS = [
    ["ae=kl"],
    *([f"data={name}", f"+data.path={GIVEN}"] for name in FILES),
    *([f"ae={name}"] for name in ("vq", "fsq", "lfq", "bsq", "identity")),
    *([f"sampler={name}"] for name in ("ddpm", "plms", "dpmpp", "heun", "euler", "unipc")),
    ["conditioning=[class,text,layout,semantic,superres,inpaint]"],
    ["diffusion.schedule=linear"],
]

CHECKED_ELSEWHERE = {
    "data.name": "looked up in SOURCES",
    "denoiser.name": "looked up in DENOISERS",
    "denoiser.architecture": "a name of scale=paper, looked up there",
    "sampler.name": "looked up in SAMPLERS",
    "ae.regulariser": "looked up in FIRST_STAGES",
    "metrics.extractor": "looked up in EXTRACTORS",
    "metrics.also.efficientnet_lite2": "a switch or a path",
    "metrics.also.efficientnet_lite2_colour": "a switch or a path",
    "metrics.also.efficientnet_lite2_inner": "a switch or a path",
    "metrics.also.inception": "a switch or a path",
    "metrics.also.dinov2": "a switch or a path",
    "metrics.also.clip": "a switch or a path",
    "metrics.target": "a class of the user's own",
    "metrics.options": "of a class of the user's own",
    "sweep.id": "set by the program",
    "sweep.target": "set by the program",
    "sweep.identity": "set by the program",
}


def composed(overrides: list[str]) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["scale=tiny", *overrides])
    found: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    del found["scale"]
    return found


@functools.cache
def first_composed() -> dict[str, Any]:
    return composed(CONFIGS[0])


def leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from leaves(inner, f"{path}{key}.")
        else:
            yield f"{path}{key}", inner


def changed(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    found = copy.deepcopy(config)
    group = found
    *above, last = key.split(".")
    for part in above:
        group = group[part]
    group[last] = value
    return found


def wrong_for(option: Option, is_open: bool) -> Iterator[Any]:
    """Values of another type, and just out of the range."""
    if not option.is_optional and not is_open:
        yield None
    if option.kind in (str, Path) and option.choices is None:
        yield from ([["a"]] if not option.is_list else ["a", [1]])
        return
    yield from ("abc", {"a": 1})
    if option.kind is not bool:
        yield True
    if option.choices is None and option.kind is not bool:
        yield from (math.nan, math.inf)
    if option.kind is int:
        yield 1.5
        yield [10**20] if option.is_list else 10**20
    yield from ([["abc"], 1] if option.is_list else [[1]])
    bounds = [(option.low, -1), (option.high, 1)]
    outside = [bound + step for bound, step in bounds if bound is not None]
    outside += [bound for bound in (option.above, option.below) if bound is not None]
    yield from ([value] for value in outside) if option.is_list else outside


def refusal(config: Mapping[str, Any]) -> str:
    try:
        check_settings(config)
    except UserError as error:
        return str(error)
    return "not refused"


@pytest.mark.parametrize("overrides", CONFIGS, ids=" ".join)
def test_every_setting_is_declared_and_refuses_what_it_is_not(overrides: list[str]) -> None:
    """All of them under the first choices, and of each other choice those of its own group, which alone differ."""
    config, first = composed(overrides), first_composed()
    is_first, group = overrides == CONFIGS[0], overrides[0].partition("=")[0].partition(".")[0]
    assert {**config, group: None} == {**first, group: None}
    own = "" if is_first else f"{group}."
    known = declared(config)
    check_settings(config)
    tried = 0
    for key, value in leaves(config):
        if key in CHECKED_ELSEWHERE or not key.startswith(own):
            continue
        assert key in known, f"{key}={value} has no type"
        option, is_open = known[key]
        for wrong in wrong_for(option, is_open):
            said = refusal(changed(config, key, wrong))
            assert said.startswith(f"{key}="), (key, wrong, said)
            tried += 1
    assert tried > (300 if is_first else 5)


def test_help_shows_what_each_setting_of_the_chosen_groups_may_be() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["ae=vq", "sampler.steps=7", "scale=tiny"])
    lines = dict(line.partition(" ")[::2] for line in overview(_root_=config).splitlines())
    assert lines["sampler.steps=7"].strip() == "whole number of steps from 1 to 1000 or null; of the time grid"
    assert "size of the codebook" in lines["ae.codebook.codes=null"]
    assert not any(key.startswith(("ae.kl_weight", "scale.", "hydra.", "sweep.")) for key in lines)


def test_the_file_of_help_is_what_the_program_declares() -> None:
    """experiments/overview.py says how it is written."""
    assert read() == spelled()


def test_the_help_as_written_is_what_the_settings_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Written as settings.json is, from other files no longer."""
    OmegaConf.register_new_resolver("settings_help", overview, replace=True)
    composed_now = help_for(["--help"])
    assert written_help.written_help(["--help"]) == composed_now, "write it: experiments/overview.py says how"
    assert written_help.written_help(["--help", "ae=vq"]) is None
    changed_file = tmp_path / "changed.yaml"
    changed_file.write_text("a: 1\n")
    monkeypatch.setattr(written_help, "CONF", tmp_path)
    assert written_help.written_help(["--help"]) is None


def test_help_imports_neither_torch_nor_hydra() -> None:
    code = (
        "import runpy, sys\nsys.argv = ['run.py', '--help']\ntry: runpy.run_path('run.py', run_name='__main__')\n"
        "finally: print(sorted({'torch', 'scipy', 'wandb', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert any(line.startswith("ae.f=") and "downsampling factor" in line for line in done.stdout.splitlines())


@pytest.mark.parametrize(("file", "said"), [("/dev/full", "could not be written"), (None, "")])
def test_help_that_nobody_reads_ends_without_a_traceback(file: str | None, said: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    target = writer if file is None else os.open(file, os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "run.py", "--help"], cwd=ROOT, stdout=target, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == bool(said)


@pytest.mark.long
def test_help_is_what_hydra_would_print(tmp_path: Path) -> None:
    """Which prints it where settings may lie elsewhere as well."""
    done = [
        subprocess.run([sys.executable, "run.py", "--help", *more], cwd=ROOT, capture_output=True, text=True).stdout
        for more in ([], ["-m"], ["--config-dir", str(tmp_path)])
    ]
    assert "Groups (choose with GROUP=NAME)" in done[0]
    assert done[0] == done[1] == done[2]


def test_the_page_of_settings_is_what_the_program_declares() -> None:
    """Written by: python -c 'from experiments.settings import *; print(reference(defaults()), end="")'."""
    text = (ROOT / "docs" / "settings.md").read_text()
    assert text.endswith(reference(defaults()))
