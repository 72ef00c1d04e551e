"""The store: what is complete, what failed, and that a killed process leaves neither a lock nor half a record."""

import dataclasses
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_plans import plan_of

from experiments.runner import run_stages
from experiments.stage import Outcome
from experiments.stages import STAGES
from experiments.store import Store
from ldm.errors import UserError
from ldm.records import Cell, Cost, LeftOut, ResultRow, StageRecord, Sweep

ROOT = Path(__file__).resolve().parents[2]

HOLDER = """
import sys
from pathlib import Path
from experiments.store import Store
with Store(Path(sys.argv[1])).claim("diffusion/abc", lambda: print("waits", flush=True)):
    print("holds", flush=True)
    sys.stdin.readline()
"""

RECORD = StageRecord(
    stage="samples",
    identity="abc",
    config={"steps": 2},
    parents={"diffusion": "def"},
    facts={"nfe": 2},
    rows=(ResultRow("fid", 1.5, 32, "p", 1.0, 2.0, images_seen=64),),
    left_out=(LeftOut("is", "too few"),),
    cost=Cost(2.0, 32, 1e9, 5, {"denoise": 1.0}),
    files={},
)


class Quiet:
    """A tracker that keeps nothing."""

    @contextmanager
    def stage_run(self, plan, stage, depends_on):
        yield self

    def finish(self, record):
        pass

    def settle(self):
        pass


def stages_that(work):
    """All stages, with this for their work."""
    return [dataclasses.replace(stage, run=work) for stage in STAGES]


@contextmanager
def holder(store: Store):
    """A second process that wants the claim, and what it says."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_claim_keeps_other_processes_out_and_a_kill_frees_it(tmp_path):
    store = Store(tmp_path)
    with holder(store) as process:
        assert process.stdout.readline() == "holds\n"
        assert store.is_claimed("diffusion/abc")
        assert not store.is_claimed("diffusion/other")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not store.is_claimed("diffusion/abc")
        waited = []
        with store.claim("diffusion/abc", lambda: waited.append(True)):
            assert store.is_claimed("diffusion/abc")
    assert not waited


def test_a_second_process_says_that_it_waits_and_goes_on_when_the_first_is_done(tmp_path):
    store = Store(tmp_path)
    with store.claim("diffusion/abc", lambda: None), holder(store) as process:
        assert process.stdout.readline() == "waits\n"
        assert process.poll() is None
    with store.claim("diffusion/abc", lambda: None):
        pass
    with holder(store) as process:
        assert process.stdout.readline() == "holds\n"


def test_a_record_is_read_as_it_was_written(tmp_path):
    store = Store(tmp_path)
    assert store.record("samples", "abc") is None
    store.finish(RECORD)
    assert store.record("samples", "abc") == RECORD
    assert store.record("samples", "abc").cost.images_per_second == 16


def test_a_record_whose_writing_is_cut_short_does_not_exist(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def cut(source, target):
        raise OSError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", cut)
        with pytest.raises(OSError, match="power cut"):
            store.finish(RECORD)
    assert not store.is_complete("samples", "abc")
    assert list(store.folder("samples", "abc").iterdir()) == []


def test_an_old_record_survives_a_write_that_is_cut_short(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.finish(RECORD)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.finish(dataclasses.replace(RECORD, facts={}))
    assert store.record("samples", "abc") == RECORD


def test_a_record_that_cannot_be_read_is_said_in_one_sentence(tmp_path):
    store = Store(tmp_path)
    store.finish(RECORD)
    (store.folder("samples", "abc") / "record.json").write_text('{"stage": "sam')
    with pytest.raises(UserError, match=r"record\.json cannot be read .* remove that folder"):
        store.record("samples", "abc")


def test_a_store_that_is_a_file_is_said_in_one_sentence(tmp_path):
    path = tmp_path / "results"
    path.write_text("text")
    with pytest.raises(UserError, match=r"store=.*results cannot be used as a folder .* store=DIR"):
        Store(path)


def test_stages_run_parents_first_once_and_their_records_are_written_last(tmp_path):
    store, plan, ran = Store(tmp_path), plan_of(), []

    def work(job):
        assert not store.is_complete(job.stage.name, job.planned.identity)
        assert store.is_claimed(f"{job.stage.name}/{job.planned.identity}")
        assert all(job.parent(parent).record.identity == identity for parent, identity in job.planned.parents.items())
        ran.append(job.stage.name)
        return Outcome(facts={"n": len(ran)})

    stages = plan.needed(("evaluation",))
    assert run_stages(stages_that(work), plan, stages, store, Quiet()) == len(stages)
    assert ran == [stage.name for stage in stages]
    assert run_stages(stages_that(work), plan, stages, store, Quiet()) == 0
    assert [store.record(s.name, s.identity).facts["n"] for s in stages] == list(range(1, len(stages) + 1))


def test_a_failure_keeps_its_traceback_stops_what_follows_and_is_forgotten_by_success(tmp_path):
    store, plan = Store(tmp_path), plan_of()
    plan = dataclasses.replace(plan, config={**plan.config, "command": "python run.py ae.f=4"})
    stages = plan.needed(("diffusion",))
    broken, ran = {"latents"}, []

    def work(job):
        ran.append(job.stage.name)
        if job.stage.name in broken:
            raise ValueError("numbers are wrong")
        return Outcome()

    with pytest.raises(ValueError, match="numbers are wrong"):
        run_stages(stages_that(work), plan, stages, store, Quiet())
    key = ("latents", plan.stages["latents"].identity)
    failure = store.failure(*key)
    assert failure.error == "ValueError: numbers are wrong"
    assert failure.command == "python run.py ae.f=4"
    assert "in work" in failure.traceback
    assert "diffusion" not in ran
    assert not store.is_complete(*key)
    assert not store.is_claimed("/".join(key))
    broken.clear()
    assert run_stages(stages_that(work), plan, stages, store, Quiet()) == 2
    assert store.failure(*key) is None


def test_a_row_without_its_protocol_never_enters_the_store(tmp_path):
    store, plan = Store(tmp_path), plan_of()
    rows, how = (ResultRow("psnr", 20.0, 8, "p"), ResultRow("ssim", 0.5, 8)), {"p": {"kind": "reconstruction"}}
    stages = plan.needed(("first_stage",))
    with pytest.raises(RuntimeError, match="first_stage gives no protocol of its rows ssim"):
        run_stages(stages_that(lambda job: Outcome(rows=rows, protocols=how)), plan, stages, store, Quiet())
    assert not store.is_complete("first_stage", plan.stages["first_stage"].identity)
    mended = stages_that(lambda job: Outcome(rows=rows[:1], protocols=how))
    assert run_stages(mended, plan, stages, store, Quiet()) == 1


def test_a_stage_that_the_user_stops_has_not_failed(tmp_path):
    store, plan = Store(tmp_path), plan_of()

    def work(job):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages(stages_that(work), plan, plan.needed(("first_stage",)), store, Quiet())
    assert store.failure("first_stage", plan.stages["first_stage"].identity) is None


def test_sweeps_are_read_as_they_were_written_the_oldest_first(tmp_path):
    store = Store(tmp_path)
    cell = Cell("c", {"f": 4}, ("ae.f=4",), {"first_stage": "abc"})
    later, earlier = Sweep("a", "2026-02-01", "two", (cell,)), Sweep("b", "2026-01-01", "one", (cell, cell))
    store.write_sweep(later)
    store.write_sweep(earlier)
    assert store.sweeps() == [earlier, later]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU here")
def test_a_gpu_that_is_not_there_is_why_the_stage_failed(tmp_path):
    """The job of a sweep ends without a word to the sweep: what became of it, only the store tells."""
    store, plan = Store(tmp_path), plan_of()
    on_gpu = dataclasses.replace(plan, config={**plan.config, "device": "cuda"})
    stages = stages_that(lambda job: pytest.fail("nothing can run here"))
    with pytest.raises(UserError, match="torch finds no GPU here"):
        run_stages(stages, on_gpu, on_gpu.needed(("first_stage",)), store, Quiet())
    failure = store.failure("first_stage", plan.stages["first_stage"].identity)
    assert failure is not None
    assert "torch finds no GPU here" in failure.error
