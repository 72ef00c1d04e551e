"""Stages on several devices, tried with processes of a CPU: the numbers of one, and what is said of one that ends."""

import json
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from program import rows, run_afresh, start

from experiments import ranks
from experiments.claims import Claim, Lease
from experiments.ranks import RankLostError, devices_of, run_on_devices
from experiments.stage import Log, Outcome
from experiments.stages import STAGES
from experiments.tracking import Silent
from ldm.errors import UserError
from ldm.ranks import ALONE, Ranks, these
from ldm.training.checkpoint import load_weights

DIVIDED = {"first_stage", "nested", "diffusion", "samples"}


def settings(devices: int | str, device: str = "cpu") -> dict:
    return {"device": device, "trainer": {"devices": devices}}


def test_devices_are_counted_and_more_than_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(ranks, "cores", lambda: 3)
    assert [devices_of(settings(asked, "cuda")) for asked in (1, 3, 4, "auto")] == [1, 3, 4, 4]
    assert [devices_of(settings(asked)) for asked in (1, 3, "auto")] == [1, 3, 1]
    with pytest.raises(UserError, match=r"trainer.devices=5, but torch finds 4 GPUs here: give trainer.devices=4 or"):
        devices_of(settings(5, "cuda"))
    with pytest.raises(UserError, match=r"trainer.devices=4, but 3 cores are here"):
        devices_of(settings(4))


def test_a_worker_of_the_local_launcher_has_one_device(monkeypatch):
    monkeypatch.setattr(ranks, "cores", lambda: 2)
    monkeypatch.setattr(multiprocessing, "current_process", lambda: SimpleNamespace(daemon=True))
    assert devices_of(settings(1)) == 1
    with pytest.raises(UserError, match=r"trainer.devices=2: workers of hydra/launcher=local have one device each"):
        devices_of(settings(2))
    monkeypatch.setattr(ranks.torch.cuda, "device_count", lambda: 4)
    assert devices_of(settings("auto", "cuda")) == 1


def test_stages_that_train_and_sample_are_divided_and_can_be_sent_to_a_process():
    assert {stage.name for stage in STAGES if stage.divides} == DIVIDED
    first_stage, diffusion = (stage for stage in STAGES if stage.name in ("first_stage", "diffusion"))
    assert first_stage.divides
    assert not first_stage.divides({"f": 1, "regulariser": "identity"})
    assert diffusion.divides
    assert not diffusion.divides({"denoiser": {"path": "model.ckpt"}})
    assert diffusion.divides({"denoiser": {"name": "unet"}})
    for stage in STAGES:
        assert pickle.loads(pickle.dumps(stage)) == stage


def claim_in(folder: Path) -> Claim:
    return Claim(folder, "first_stage/abc", 3, Lease(), True)


def test_a_claim_can_be_checked_in_another_process(tmp_path):
    (tmp_path / "3.json").touch()
    copy = pickle.loads(pickle.dumps(claim_in(tmp_path)))
    assert (copy.token, copy.folder, copy.is_sure) == (3, tmp_path, True)
    copy.check()
    (tmp_path / "4.json").touch()
    assert copy.is_lost()


def test_a_batch_is_no_smaller_than_the_ranks_are_many():
    ALONE.check_batch(1)
    Ranks(1, 2).check_batch(2)
    with pytest.raises(UserError, match=r"a batch of 2 cannot be divided over 3 devices: give larger batches"):
        Ranks(1, 3).check_batch(2)


def shared_work(log: Log, claim: Claim) -> Outcome:
    """The sum of the ranks' numbers, and what each is told."""
    mine = these()
    log.log(mine.rank, {"rank": float(mine.rank)})
    claim.check()
    return Outcome(facts={"sum": mine.sum_number(mine.rank + 1.0, "cpu"), "count": mine.count})


def failing_work(log: Log, claim: Claim) -> Outcome:
    """The second rank fails, the first waits for it."""
    if these().rank == 1:
        raise UserError("the second one cannot")
    these().wait()
    return Outcome()


def killed_work(log: Log, claim: Claim) -> Outcome:
    """The second rank is killed, the first waits for it."""
    if these().rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    these().wait()
    return Outcome()


def hanging_work(log: Log, claim: Claim) -> Outcome:
    """The first rank fails, the second hears of nothing."""
    if these().rank == 0:
        raise UserError("the first one cannot")
    time.sleep(60)
    return Outcome()


class Kept(Silent):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict]] = []

    def log(self, images_seen, values) -> None:
        self.logged.append((images_seen, dict(values)))


@pytest.mark.slow
def test_ranks_share_a_work_and_the_first_alone_logs(tmp_path):
    log = Kept()
    assert run_on_devices(shared_work, log, claim_in(tmp_path), "cpu", 2).facts == {"sum": 3.0, "count": 2}
    assert log.logged == [(0, {"rank": 0.0})]


@pytest.mark.slow
def test_the_error_of_a_rank_is_raised_and_a_killed_one_is_named(tmp_path):
    with pytest.raises(UserError, match="the second one cannot") as error:
        run_on_devices(failing_work, Silent(), claim_in(tmp_path), "cpu", 2)
    assert "failing_work" in error.value.__notes__[0]
    with pytest.raises(UserError, match="the first one cannot"):  # not that the other was killed for it
        run_on_devices(hanging_work, Silent(), claim_in(tmp_path), "cpu", 2)
    with pytest.raises(RankLostError, match=r"device 1 was killed \(SIGKILL\)"):
        run_on_devices(killed_work, Silent(), claim_in(tmp_path), "cpu", 2)


CELL = ("ae=kl", "ae.f=4", "until=samples", "precision=fp32", "samples.batch=8", "trainer.milestones=[1.0]")
TRAINED = (*CELL, "ae.training.images=320", "trainer.images=320", "trainer.checkpoint_seconds=0")
TWO = (*TRAINED, "device=cpu", "trainer.devices=2")


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run on two devices that nobody disturbed."""
    store = tmp_path_factory.mktemp("two") / "store"
    done = run_afresh(store, *TWO)
    assert done.returncode == 0, done.stdout + done.stderr
    return store


# After 20 steps at these rates a rounding alone, of another instruction set, has moved the PSNR by 0.5 dB.
TWO_STEPS = (*CELL, "ae.training.images=32", "trainer.images=32")


@pytest.mark.slow
def test_two_devices_make_the_artifacts_of_one(tmp_path):
    alone, together = (tmp_path / name / "store" for name in ("one", "two"))
    for store, devices in ((alone, ()), (together, ("device=cpu", "trainer.devices=2"))):
        store.parent.mkdir()
        done = run_afresh(store, *TWO_STEPS, *devices)
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = rows(alone), rows(together)
    assert one.keys() == two.keys()  # the same identities
    for key in one:
        assert two[key] == pytest.approx(one[key], rel=2e-2, abs=2e-2), key
    for path in sorted(alone.glob("*/*/record.json")):
        mine, theirs = (json.loads(file.read_text()) for file in (path, together / path.relative_to(alone)))
        assert mine["environment"]["devices"] == 1
        assert theirs["environment"]["devices"] == (2 if mine["stage"] in DIVIDED else 1)
        if mine["stage"] == "diffusion":
            assert theirs["cost"]["flops"] == pytest.approx(mine["cost"]["flops"], rel=1e-6)


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_which_goes_on_bit_for_bit(on_two, tmp_path):
    store = tmp_path / "store"
    process = start(store, *TWO)
    stopped = None
    while process.poll() is None:
        if stopped is None and any(store.glob("diffusion/*/checkpoint.pt")):
            [*_, stopped] = children(process.pid)
            os.kill(stopped, signal.SIGKILL)
        time.sleep(0.02)
    assert stopped is not None
    assert process.returncode == 1
    [failure] = store.glob("diffusion/*/failure.json")
    assert "was killed (SIGKILL)" in json.loads(failure.read_text())["error"]
    assert not children(process.pid)
    done = run_afresh(store, *TWO)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(store) == rows(on_two)
    for path in store.glob("diffusion/*/weights.safetensors"):
        resumed, whole = load_weights(path), load_weights(on_two / path.relative_to(store))
        assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def children(process: int) -> list[int]:
    """The ranks that a process started, in order."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            is_child = int(path.read_text().rpartition(")")[2].split()[1]) == process
            if is_child and b"spawn_main" in (path.parent / "cmdline").read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has ended since
            continue
    return sorted(found)
