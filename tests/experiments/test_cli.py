"""What the person at the keyboard is told: one sentence and an exit code, before anything is computed."""

import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from program import run, run_afresh
from tiny_plans import settings_of

from experiments import cli
from experiments.cli import exit_code, pasted, with_scale, without
from experiments.compose import composed
from experiments.schema import CONF, check_keys, leaves
from ldm.errors import UserError


@pytest.mark.long
@pytest.mark.parametrize(
    ("program", "arguments", "words"),
    [
        (run_afresh, ["sampler.stepps=3"], ["sampler.stepps", "did you mean 'sampler.steps'?"]),
        (run, ["-m", "ae.f=4,3"], ["ae.f=3 is not a power of two"]),
    ],
)
def test_run_py_ends_with_one_sentence_and_code_2(program, arguments, words, tmp_path):
    ended = program(tmp_path / "store", *arguments)
    said = ended.stdout.strip()
    assert ended.returncode == 2, ended.stderr
    assert said.startswith("error: ")
    assert "\n" not in said
    assert all(word in said for word in words)
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not list(tmp_path.glob("store/first_stage/*"))


@pytest.mark.long
def test_run_py_on_a_store_that_is_a_file(tmp_path):
    (tmp_path / "store").write_text("text")
    ended = run(tmp_path / "store")
    assert ended.returncode == 2, ended.stderr
    assert "store=DIR" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


def said_of(capsys, *overrides: str) -> str:
    """The sentence about settings that cannot be composed."""
    assert exit_code(lambda: bool(composed(["scale=tiny", *overrides]))) == 2
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    return said


@pytest.mark.long
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sampler.stepps=3", ["'sampler.stepps' is no setting", "did you mean 'sampler.steps'?"]),
        ("samplers.steps=3", ["'samplers", "is no setting"]),
        ("ae=klv", ["ae=klv is no choice", "did you mean 'kl'?", "(there are bsq, custom, fsq, identity, kl"]),
        ("data=folder", ["data.path must be given"]),
        ("hydra/launcher=locl", ["hydra/launcher=locl is no choice", "did you mean 'local'?"]),
        ("sampler=plsm", ["sampler=plsm is no choice", "did you mean 'plms'?", "unipc"]),
        ("sampler=base", ["sampler.name must be given"]),
        ("until=evaluations", ["until=evaluations is no stage", "did you mean 'evaluation'?"]),
        ("device=gpu", ["device=gpu is none of auto, cpu, cuda"]),
        ("precision=fp16", ["precision=fp16 is none of"]),
    ],
)
def test_an_override_that_cannot_be_is_said_in_one_sentence(capsys, override, words):
    said = said_of(capsys, override)
    assert all(word in said for word in words), said


def test_a_launcher_whose_packages_are_missing_names_them(capsys, monkeypatch):
    monkeypatch.setitem(cli.LAUNCHER_EXTRAS, "of_elsewhere", "cluster")
    said = said_of(capsys, "hydra/launcher=of_elsewhere")
    assert "hydra/launcher=of_elsewhere needs packages: pip install -e '.[cluster]'" in said


def with_experiment(folder: Path, text: str):
    """A composed config of a made-up experiment file."""
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(
            "config",
            ["+experiment=mine", f"hydra.searchpath=[file://{folder}]", "scale=tiny"],
            return_hydra_config=True,
        )


@pytest.mark.long
def test_a_typo_inside_an_experiment_file_is_an_error_with_the_nearest_name(tmp_path):
    config = with_experiment(tmp_path, "sampler:\n  stepps: 3\n")
    with pytest.raises(
        UserError, match=r"'sampler\.stepps', set by experiment=mine, .* did you mean 'sampler\.steps'\?"
    ):
        check_keys(config)


@pytest.mark.long
def test_an_experiment_file_may_choose_groups_and_set_what_they_have(tmp_path):
    text = "defaults:\n  - override /ae: vq\nae:\n  codebook:\n    codes: 32\nsampler:\n  steps: 3\n"
    config = with_experiment(tmp_path, text)
    check_keys(config)
    assert (config.ae.regulariser, config.ae.codebook.codes, config.sampler.steps) == ("vq", 32, 3)


def test_a_key_of_a_group_that_was_not_chosen_is_unknown(tmp_path):
    config = with_experiment(tmp_path, "ae:\n  codebook:\n    codes: 32\n")  # ae=kl has no codebook
    with pytest.raises(UserError, match=r"'ae\.codebook"):
        check_keys(config)


@pytest.mark.long
def test_run_py_refuses_a_typo_inside_an_experiment_file(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nsampler:\n  stepps: 3\n")
    ended = run(tmp_path / "store", "+experiment=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert (ended.returncode, "did you mean 'sampler.steps'?" in ended.stdout) == (2, True), ended.stdout


@pytest.mark.parametrize("given", [["scale=gpu"], ["+scale=tiny"], ["--help"]])
def test_a_scale_is_added_only_where_none_is_given(given):
    assert cli.with_scale(["run.py", *given]) == ["run.py", *given]


def test_a_path_in_the_home_folder_is_one_behind_a_key_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a b")
    given = ["run.py", "scale=tiny", "data.path=~/photos", "store=~/x,~/y", "ae.path='~/quoted'", "-m", "a=b~/c", "~x"]
    assert cli.with_scale(given) == [
        *("run.py", "scale=tiny", 'data.path="/home/a b/photos"', 'store="/home/a b/x","/home/a b/y"'),
        *("ae.path='~/quoted'", "-m", "a=b~/c", "~x"),
    ]
    parser = OverridesParser.create()
    assert parser.parse_override(cli.with_scale(given)[2]).value() == "/home/a b/photos"


@pytest.mark.parametrize(
    ("has_gpu", "given", "scale"),
    [(False, [], "cpu"), (True, [], "gpu"), (True, ["device=cpu"], "cpu"), (True, ["sampler.steps=2"], "gpu")],
)
def test_the_scale_follows_the_machine_and_is_said(monkeypatch, capsys, has_gpu, given, scale):
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    assert cli.with_scale(["run.py", *given]) == ["run.py", f"scale={scale}", *given]
    said = capsys.readouterr()
    assert said.err.startswith(f"scale={scale}, since this machine has")
    assert said.out == ""


@pytest.mark.parametrize("given", [["-m", "ae.f=1,4"], ["ae.f=1,4", "-m"], ["-m"], ["--config-dir", "x", "ae.f=1"]])
def test_the_scale_stands_beside_the_overrides_for_flags_must_not_part_them(given):
    argv = cli.with_scale(["run.py", *given])
    flags = [position for position, argument in enumerate(argv) if "=" not in argument]
    overrides = [position for position, argument in enumerate(argv) if "=" in argument]
    assert overrides == list(range(overrides[0], overrides[-1] + 1))
    assert [argv[position] for position in flags] == ["run.py", *(g for g in given if "=" not in g)]
    assert len(argv) == len(given) + 2


@pytest.mark.long
def test_composed_values_hold_what_was_decided_and_nothing_of_hydra():
    settings = settings_of()
    assert "hydra" not in settings
    assert (settings["device"], settings["precision"]) == ("cpu", "fp32")
    values = composed(["scale=tiny", "ae.f=8", "device=auto"])
    assert values["overrides"] == ["scale=tiny", "ae.f=8", "device=auto"]
    assert values["device"] in ("cpu", "cuda")


def test_leaves_are_all_dotted_names():
    assert list(leaves({"a": {"b": 1, "c": {"d": 2}}, "e": 3})) == ["a", "a.b", "a.c", "a.c.d", "e"]


def test_overrides_of_one_key_are_left_out():
    assert without(["store=a", "+store=b", "++store=c", "restore=d", "ae.f=4"], "store") == ["restore=d", "ae.f=4"]


@pytest.mark.parametrize(
    "value", ["my photos (1)", "a[b],c=d", "Gr\u00f6\u00dfe", 'a"b', "back\\slash\\", "it's", 'a\\"b']
)
def test_what_is_to_be_pasted_gives_the_value_back(value):
    """Through a shell and through Hydra."""
    words = shlex.split(pasted("data.path", value))
    assert len(words) == 1
    [override] = OverridesParser.create().parse_overrides(words)
    assert override.value() == value


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data=folder", "data.path=/tmp/a (b)"], ["the value of data.path", "'data.path=\"/tmp/a (b)\"'"]),
        (["data=folder", "data.path=/tmp/a", "b"], ["'b' is no KEY=VALUE", "quoted"]),
        (["~tracker"], ["~tracker", "every run needs", "tracker.mode=disabled"]),
        (["+sampler.stpes=5"], ["'sampler.stpes', added with +", "did you mean 'sampler.steps'?"]),
        (["data.path=/tmp/a"], ["data.path is a setting of data=", "folder"]),
        (["sampler.steps=ten"], ["sampler.steps=ten is no whole number of steps from 1 to 1000"]),
        (["trainer.learning_rate=abc"], ["trainer.learning_rate=abc is no number above 0"]),
        (["sampler.eta=-1"], ["sampler.eta=-1 is no number from 0 to 1"]),
        (["conditioning.dropout=2"], ["conditioning.dropout=2 is no number from 0 to 1"]),
        (["ae.channels=3.5"], ["ae.channels=3.5 is no whole number"]),
    ],
)
def test_wrong_settings_are_said_in_one_sentence(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", *arguments])
    sentence = said_of(capsys, *arguments)
    assert sentence.startswith("error: ")
    assert all(words in sentence for words in said), sentence


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data=folder", "data.path=/tmp/a (b)"], ["the value of data.path", "'data.path=\"/tmp/a (b)\"'"]),
        (["ae.f=4", "ae.f=8"], ["ae.f is given twice, as 4 and as 8", "ae.f=4,8"]),
        (["data.resolution=36"], ["data.resolution=36 is no side", "use 32 or 40"]),
        (["sampler.eta=-1"], ["sampler.eta=-1 is no number from 0 to 1"]),
    ],
    ids=["of Hydra", "of the command line", "of the plan", "of a setting"],
)
def test_wrong_settings_end_the_program_before_anything_runs(arguments, said, tmp_path):
    done = run(tmp_path / "store", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert all(words in done.stdout for words in said), done.stdout
    assert done.stdout.count("error:") == 1
    assert "Traceback" not in done.stdout + done.stderr
    left = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.name != "run.log"]
    assert [path.name for path in left] in ([], [".ldm-store"])


@pytest.mark.parametrize(("flag", "first"), [("-sc", "export _HYDRA_OLD_COMP"), ("--cfg", "data:")])
def test_what_other_programs_read_holds_nothing_else(flag, first, monkeypatch, capsys):
    """Of shell completion and of a config that goes to a file."""
    given = ["run.py", flag, {"-sc": "install=bash", "--cfg": "job"}[flag]]
    assert with_scale(given)[: len(given)] == given
    assert capsys.readouterr().out == ""
    assert first
