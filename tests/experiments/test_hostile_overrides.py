"""Overrides and experiment files that mean harm, or are made of chance: composed, or refused in a sentence."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import fuzzed
from hypothesis import strategies as st
from program import ROOT, run

from experiments.cli import exit_code
from experiments.compose import composed
from experiments.harmless import check_harmless
from experiments.settings import defaults
from ldm.errors import UserError

CALLED: list[str] = []


@pytest.fixture(autouse=True)
def nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No shell is called by what is composed."""
    monkeypatch.setattr(os, "system", CALLED.append)
    monkeypatch.setattr(subprocess, "Popen", CALLED.append)
    yield
    assert CALLED == []


KEYS = st.sampled_from(
    [
        *sorted(defaults()),
        *("ae", "data", "sampler", "experiment", "scale", "hydra", "hydra/launcher", "hydra.sweeper._target_"),
        *("ae._target_", "hydra.callbacks.a._target_", "hydra.job_logging.handlers.a.class", "sweep.target", "x", ""),
    ]
)
TRICKS = st.sampled_from(
    [
        "${oc.env:HOME}", "${oc.env:NOT_THERE}", "${oc.decode:'[1'}", "${oc.create:${ae}}", "${hydra:run.dir}", "${ae}",
        "${ae.f}", "${:}", "${no.such:1}", "${settings_help:}", "{_target_:os.system,command:exit}", "[", "{", "???",
        "null", "a,b", "range(1,3)", "choice(1,2)", "glob(*)", "1e999", "nan", "-1", "''", "../../etc/passwd", "1_000",
    ]
)  # fmt: skip
VALUES = st.one_of(TRICKS, st.text(st.characters(), max_size=8), st.integers(-2, 10**20).map(str), st.floats().map(str))
OVERRIDES = st.builds(
    lambda sign, key, value: f"{sign}{key}={value}", st.sampled_from(["", "", "", "+", "++", "~"]), KEYS, VALUES
)


@pytest.mark.long
@fuzzed(override=st.one_of(OVERRIDES, st.text(st.characters(), max_size=12)))
def test_overrides_of_chance_are_composed_or_refused_in_a_sentence(override: str) -> None:
    scale = [] if override.lstrip("+~").startswith("scale=") else ["scale=tiny"]

    def compose() -> int:
        check_harmless(["run.py", override])
        return 0 if composed([override, *scale])["ae"] else 1

    assert exit_code(compose) in (0, 2)


def test_what_hydra_raises_of_python_is_a_sentence_and_what_is_ours_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: len(composed(["ae=1e999"]))) == 2
    assert "these settings cannot be composed (Config group override must be a string" in capsys.readouterr().out
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)


@pytest.mark.parametrize(
    "override",
    [
        "+x._target_=os.system",
        "ae._target_=os.system",
        "++data={_target_: os.system, command: exit}",
        "+hydra.callbacks.a._target_=os.system",
        "+hydra/callbacks=mine",
        "hydra.callbacks={a: {_target_: os.system}}",
        "hydra.job_logging.handlers.console.class=subprocess.Popen",
        "hydra.hydra_logging.handlers={a: {(): os.system}}",
        "hydra.sweeper._target_=os.system",
    ],
)
def test_what_names_something_to_call_is_refused_before_hydra_sees_it(override: str) -> None:
    with pytest.raises(UserError, match="would have Hydra call what the value names: leave it out"):
        check_harmless(["run.py", "ae.f=4", override])


@pytest.mark.parametrize(
    "argument", ["ae.f=4", "hydra.launcher.workers=2", "hydra.run.dir=x", "-m", "hydra/launcher=local"]
)
def test_what_calls_nothing_passes(argument: str) -> None:
    check_harmless(["run.py", argument])


def test_experiments_of_the_program_pass() -> None:
    names = [path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")]
    assert len(names) > 10
    check_harmless(["run.py", f"+experiment={','.join(names)}"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# @package _global_\nx:\n  _target_: os.system", "says 'x._target_'"),
        ("# @package _global_\nhydra:\n  callbacks:\n    a:\n      b: c", "says 'hydra.callbacks'"),
        (
            "# @package hydra.job_logging\nhandlers:\n  a:\n    class: subprocess.Popen",
            "says '# @package hydra.job_log",
        ),
        ("# @package _global_\ndefaults:\n  - /hydra/callbacks: a\n", "says "),
        ("# @package _global_\nhydra:\n  sweeper:\n    params:\n      ae.f: 1,4", None),
        ("a: !!python/object/apply:os.system [exit]", "cannot be read as a file of settings"),
        ("a: [", "cannot be read as a file of settings"),
    ],
)
def test_an_experiment_file_of_a_stranger_is_looked_through(tmp_path: Path, text: str, told: str | None) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "theirs.yaml").write_text(text)
    for given in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        argv = ["run.py", *given, "+experiment=theirs"]
        if told is None:
            check_harmless(argv)
        else:
            with pytest.raises(UserError, match=r"theirs\.yaml") as error:
                check_harmless(argv)
            assert told in str(error.value)


@pytest.mark.long
@pytest.mark.program
def test_a_callback_is_refused_by_the_program_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the program needs its processes
    made = tmp_path / "made"
    done = run(tmp_path / "store", f"+hydra.callbacks.a={{_target_:os.mkdir,path:{made}}}")
    assert done.returncode == 2
    assert done.stdout.startswith("error: 'hydra.callbacks.a' would have Hydra call")
    assert "Traceback" not in done.stdout + done.stderr
    assert not made.exists()
