"""Runs against the clock: what is timed, what is fixed, what counts, and the table, of a stand-in for run.py."""

import json
import sys
import threading
import time
from pathlib import Path

import pytest
from tiny_plans import plan_of

from experiments.commands import speedrun
from experiments.commands.speedrun import BELOW, METRIC, against_the_clock, checked, entries, main, table
from ldm.errors import UserError
from ldm.records import ResultRow, StageRecord, write_json

RUN_PY = """
import json, pathlib, sys, time
asked = dict(each.split("=", 1) for each in sys.argv[1:] if "=" in each)
store = pathlib.Path(asked["store"].strip('"'))
with open(store.parent / "calls", "a") as file:
    file.write(asked["until"] + chr(10))
if asked.get("ae.f") == "9":
    sys.exit(3)
time.sleep({"samples": 0.1, "evaluation": 2.0}[asked["until"]])
if asked["until"] == "evaluation":
    record = json.loads(pathlib.Path(sys.argv[0]).with_name("record.json").read_text())
    record["rows"][1]["value"] += 0.1 * int(asked["ae.seed"])
    folder = store / "evaluation" / "abc"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that takes a tenth of a second to its samples, whose distances are 1.6, 1.7, 1.8."""
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "run.py").write_text(RUN_PY)
    rows = (ResultRow("other", 0.1, 2000), ResultRow(METRIC, 1.6, 2000, "p", 1.5, 1.9))
    write_json(folder / "record.json", StageRecord("evaluation", "abc", {}, {}, rows=rows).to_json())
    monkeypatch.setattr(speedrun, "ROOT", folder)
    return folder


@pytest.mark.long
def test_the_clock_stops_at_the_samples_and_the_distance_is_measured_after_it(stand_in, tmp_path):
    begun = time.monotonic()
    run = against_the_clock(("scale=cpu",), 1, tmp_path / "run")
    assert 0.1 < run.seconds < time.monotonic() - begun - 2
    assert run.value == pytest.approx(1.7)
    assert (run.ci_low, run.ci_high, run.n, run.protocol) == (1.5, 1.9, 2000, "p")
    assert (tmp_path / "run" / "calls").read_text().split() == ["samples", "evaluation"]


@pytest.mark.slow
def test_an_entry_is_three_seeds_each_run_once_and_reaches_the_target_where_all_do(
    stand_in, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(speedrun, "SEEDS", (0, 1))
    monkeypatch.setattr(speedrun, "checked", lambda overrides: ("scale=cpu", *overrides))
    out = tmp_path / "out"
    assert main(["ae.f=8", "--out", str(out)]) == 0
    assert "| yes | `python -m experiments.speedrun scale=cpu ae.f=8` |" in capsys.readouterr().out
    [entry] = entries(out)
    assert entry.is_reached
    assert BELOW == 1.75
    monkeypatch.setattr(speedrun, "SEEDS", (0, 1, 2))
    assert "| 2 of 3 seeds |" in table(entries(out))
    assert not entries(out)[0].is_reached
    assert main(["ae.f=8", "--out", str(out)]) == 0
    assert "| no |" in capsys.readouterr().out  # the third is at 1.8
    calls = [path.read_text().split() for path in sorted(out.glob("*/*/calls"))]
    assert calls == [["samples", "evaluation"]] * 3
    (stand_in / "ldm").mkdir()
    (stand_in / "ldm" / "faster.py").write_text("")  # runs of another program are of another entry
    assert main(["ae.f=8", "--out", str(out)]) == 0
    assert len(entries(out)) == 2


@pytest.mark.long
def test_a_run_that_did_not_end_is_begun_anew(stand_in, tmp_path):
    left = tmp_path / "run" / "store" / "first_stage"
    left.mkdir(parents=True)
    against_the_clock(("scale=cpu",), 0, tmp_path / "run")
    assert not left.exists()
    with pytest.raises(UserError, match="seed 0 ended with code 3; given again, this command begins it anew"):
        against_the_clock(("ae.f=9",), 0, tmp_path / "other")


def test_the_same_command_given_twice_runs_each_seed_once(tmp_path, monkeypatch, capsys):
    """The second one waits: it would remove what the first one is timing."""
    begun = []

    def run(overrides, seed, folder):
        begun.append(seed)
        time.sleep(0.1)
        found = speedrun.Run(overrides, seed, "m", 1.0, 1.7, 1.6, 1.8, 2000, "p", "", "", "")
        write_json(folder / "run.json", found.__dict__)
        return found

    for name, given in {"checked": tuple, "machine": repr, "program": repr, "against_the_clock": run}.items():
        monkeypatch.setattr(speedrun, name, given)
    both = [threading.Thread(target=main, args=(["ae.f=8", "--out", str(tmp_path)],)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert begun == list(speedrun.SEEDS)
    assert "another process runs this entry: waiting for it" in capsys.readouterr().out


def test_entries_that_reached_the_target_come_first_then_the_soonest(tmp_path):
    for name, seconds, value in (("a", 50.0, 1.7), ("b", 40.0, 1.8), ("c", 30.0, 1.7)):
        for seed in speedrun.SEEDS:
            run = speedrun.Run((name,), seed, "m", seconds + seed, value, value, value, 2000, "p", "", "", "")
            write_json(tmp_path / name / str(seed) / "run.json", run.__dict__)
    assert [entry.runs[0].overrides for entry in entries(tmp_path)] == [("c",), ("a",), ("b",)]
    assert "| 0:31 (0:30 to 0:32) |" in table(entries(tmp_path))


@pytest.mark.long
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.n_train=100", "data.n_train is fixed"),
        ("metrics.extractor=efficientnet_lite2", "metrics.extractor is fixed"),
        ("seed=3", "gives the runs their seed"),
        ("++seed=3", "gives the runs their seed"),
        ("trainer.devices=2", "an entry is of one device"),
        ("store=x", "gives the runs their store"),
        ("conditioning=superres", "how the held-out images look"),
        ("ae=pretrained", "trained before the clock ran"),
    ],
)
def test_what_the_rules_do_not_allow_is_refused(override, words):
    given = [override, "ae.path=x"] if override == "ae=pretrained" else [override]
    with pytest.raises(UserError, match=words):
        checked(given)


@pytest.mark.long
@pytest.mark.parametrize("is_trained", [True, False])
def test_a_first_stage_of_ones_own_is_one_that_a_run_trains(is_trained, tmp_path, monkeypatch):
    module = f"own_first_stage_{is_trained}".lower()
    (tmp_path / f"{module}.py").write_text(f"class Own:\n    version, is_trained = 1, {is_trained}\n")
    monkeypatch.syspath_prepend(tmp_path)
    given = ["ae=custom", f"ae.target={module}:Own"]
    if not is_trained:
        assert checked(given) == (*given, "scale=cpu")
        return
    with pytest.raises(UserError, match=f"ae.target={module}:Own comes trained, before the clock ran"):
        checked(given)


@pytest.mark.long
@pytest.mark.parametrize("group", speedrun.FIXED)
def test_what_is_fixed_does_not_depend_on_the_scale(group):
    """Images and numbers of them stand in the experiment, not in the scale."""
    tiny, cpu = (plan_of("+experiment=speedrun", scale=scale).config[group] for scale in ("tiny", "cpu"))
    quick = ("progress_", "likelihood_", "sampler_check")  # of further measurements, which no entry is compared by
    measured = {key for key in tiny if not key.startswith(quick)}
    assert {key: tiny[key] for key in measured} == {key: cpu[key] for key in measured}


@pytest.mark.long
def test_other_settings_are_free():
    assert checked(["scale=tiny", "ae=vq", "ae.f=8", "denoiser=dit"]) == (
        "scale=tiny",
        "ae=vq",
        "ae.f=8",
        "denoiser=dit",
    )
    assert checked(["ae.f=8"]) == ("ae.f=8", "scale=cpu")


@pytest.mark.slow
@pytest.mark.program
def test_a_real_run_at_the_tiny_scale(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speedrun, "SEEDS", (0,))
    assert main(["scale=tiny", "ae.f=32", "--out", str(tmp_path / "out")]) == 0
    [path] = (tmp_path / "out").glob("*/*/run.json")
    kept = json.loads(path.read_text())
    assert kept["value"] > BELOW
    assert kept["n"] == 2000
    assert sys.executable not in capsys.readouterr().out
