"""Claims between processes and hosts: one holder at a time, signs of life, and what becomes of who was taken over."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import claims
from experiments.claims import Claim, Held, Lease, LostClaimError
from experiments.commands import ledger
from experiments.store import Store
from ldm.errors import UserError
from ldm.records import StageRecord

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0

WORKER = """
import platform, sys, time
from pathlib import Path

store, host, stage_to_wait_in = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
platform.node = lambda: host
sys.path.insert(0, str(Path("tests/experiments").resolve()))
from test_store import Quiet, stages_that
from tiny_plans import plan_of
from experiments.runner import run_stages
from experiments.stage import Outcome
from experiments.store import Store
from ldm.errors import UserError

def work(job):
    before = job.folder / "checkpoint.pt"
    found = before.read_text() if before.exists() else ""
    with open(store / "made.txt", "a") as log:
        log.write(f"{job.stage.name} {host} {found}\\n")
    before.write_text(f"half of {host}")
    if host == "one":
        (job.folder / ".weights.1").write_text("not whole")
    if job.stage.name == stage_to_wait_in:
        (store / f"{host} is in it").touch()
        while not (store / "go on").exists():
            time.sleep(0.05)
    (job.folder / "weights").write_text(host)
    return Outcome(facts={"host": host})

plan = plan_of()
try:
    run_stages(stages_that(work), plan, plan.needed(("diffusion",)), Store(store), Quiet())
except UserError as error:
    print(error)
    sys.exit(2)
"""


def wait_until(condition: Callable[[], object]) -> None:
    """Raises: TimeoutError where it does not come true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come true in time")
        time.sleep(0.02)


def with_lease(root: Path, seconds: float, beat: float) -> Store:
    """A store whose claims hold that long."""
    store = Store(root)
    (root / "claims" / "lease.json").write_text(json.dumps({"seconds": seconds, "beat": beat}))
    return store


def put(store: Store, held: Held) -> Path:
    """Another process's claim on diffusion/abc."""
    path = store.root / "claims" / "diffusion-abc" / f"{held.token}.json"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".put")
    temporary.write_text(json.dumps(dataclasses.asdict(held)))
    os.replace(temporary, path)
    return path


def elsewhere(**fields) -> Held:
    """A claim of a process on another host."""
    holder = dataclasses.replace(claims.this_process(), host="elsewhere")
    return Held(**{"token": 1, "holder": holder, "beat": 0, "lease": 0.5, **fields})


def seconds_to_claim(store: Store) -> float:
    started = time.monotonic()
    with store.claim("diffusion/abc", lambda: None):
        return time.monotonic() - started


@pytest.mark.parametrize("of", ["the number of a process that ended", "another process's number"])
def test_the_claim_of_a_dead_process_is_taken_over_at_once(tmp_path, of):
    store = Store(tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    number = ended.pid if of == "the number of a process that ended" else os.getpid()
    dead = dataclasses.replace(claims.this_process(), process=number, started="17")
    put(store, Held(1, dead, beat=5, lease=600.0))
    assert not store.is_claimed("diffusion/abc")
    assert seconds_to_claim(store) < 60


def test_a_process_that_was_not_waited_for_is_dead_too(tmp_path):
    """Its number is still in the list of processes."""
    store = Store(tmp_path)
    child = subprocess.Popen(["sleep", "600"])
    alive = dataclasses.replace(claims.this_process(), process=child.pid, started=claims._started(child.pid))
    put(store, Held(1, alive, beat=5, lease=600.0))
    assert store.is_claimed("diffusion/abc")
    child.send_signal(signal.SIGKILL)
    wait_until(lambda: not store.is_claimed("diffusion/abc"))
    child.wait()


@pytest.mark.long
def test_the_claim_of_another_host_holds_as_long_as_it_gives_signs_of_life(tmp_path):
    store, beats = Store(tmp_path), threading.Event()
    path = put(store, elsewhere(lease=1.5))

    def live() -> None:
        for beat in range(1, 20):
            put(store, elsewhere(beat=beat, lease=1.5))
            os.utime(path, (0, 0))  # its clock is decades behind
            time.sleep(0.2)
        beats.set()

    living = threading.Thread(target=live)
    living.start()
    with store.claim("diffusion/abc", lambda: None) as claim:
        assert beats.is_set()
        assert (claim.token, claim.is_sure) == (2, False)
    living.join()


def test_a_claim_that_was_given_back_is_taken_at_once_by_any_host(tmp_path):
    store = Store(tmp_path)
    put(store, elsewhere(lease=600.0, is_over=True, is_sure=True))
    with store.claim("diffusion/abc", lambda: pytest.fail("there is nothing to wait for")) as claim:
        assert claim.is_sure


@pytest.mark.long
def test_a_claim_cut_short_by_a_crash_is_taken_over_after_the_lease(tmp_path):
    store = with_lease(tmp_path, 0.5, 0.1)
    put(store, elsewhere()).write_text("")
    assert seconds_to_claim(store) > 0.4


def test_signs_of_life_are_given_while_the_claim_is_held(tmp_path):
    store = with_lease(tmp_path, 1.0, 0.05)
    with store.claim("diffusion/abc", lambda: None):
        folder = tmp_path / "claims" / "diffusion-abc"
        wait_until(lambda: (held := claims.newest(folder)) is not None and (held.beat or 0) > 3)
    held = claims.newest(folder)
    assert held is not None
    assert held.is_over


def test_one_holds_at_a_time_however_many_want_it(tmp_path):
    store, inside, most = Store(tmp_path), [0], [0]

    def work() -> None:
        for _ in range(4):
            with store.claim("diffusion/abc", lambda: None):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert claims.tokens(tmp_path / "claims" / "diffusion-abc") == [24]


def test_who_looked_before_others_came_and_went_gets_nothing(tmp_path):
    store = Store(tmp_path)
    path = put(store, elsewhere(token=3))
    late = Claim(path.parent, "diffusion/abc", 2, Lease(), is_sure=False)
    assert not claims._create(late)
    assert claims.tokens(path.parent) == [3]


def test_who_was_taken_over_writes_no_record(tmp_path):
    store = Store(tmp_path)
    with store.claim("diffusion/abc", lambda: None) as claim:
        store.begin("diffusion", "abc", claim)
        put(store, elsewhere(token=2))
        with pytest.raises(LostClaimError, match=r"diffusion/abc was taken over by process \d+ on elsewhere"):
            store.finish(StageRecord("diffusion", "abc", {}, {}), claim)
    assert not store.is_complete("diffusion", "abc")
    held = claims.newest(tmp_path / "claims" / "diffusion-abc")
    assert held is not None
    assert (held.token, held.is_over) == (2, False)


@pytest.mark.parametrize("is_sure", [True, False])
def test_what_the_last_try_left_is_gone_on_from(tmp_path, is_sure):
    """As it lies where that try ended for sure, else as a copy of what is whole."""
    store = Store(tmp_path)
    first, later = (Claim(tmp_path, "n", token, Lease(), is_sure) for token in (1, 2))
    store.begin("diffusion", "abc", first)
    left = store.place("diffusion", "abc", first)
    (left / "parts").mkdir()
    for name in ("checkpoint.pt", "parts/0.npz", ".weights.safetensors.77", "record.json"):
        (left / name).write_text(name)
    store.fail("diffusion", "abc", ValueError("no luck"), "")
    store.begin("diffusion", "abc", later)
    place = store.place("diffusion", "abc", later)
    names = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert names == {"checkpoint.pt", "parts/0.npz"}
    assert left.exists() is not is_sure
    assert store.failure("diffusion", "abc") is None
    store.finish(StageRecord("diffusion", "abc", {}, {}), later)
    assert [path.name for path in (tmp_path / "diffusion").iterdir()] == ["abc"]
    assert [path.name for path in (tmp_path / "diffusion" / "abc").iterdir()] == ["record.json"]


def test_of_tries_that_ended_one_is_renamed_and_no_other_is_copied_again(tmp_path):
    """After a process that may wake again, its folder alone is kept from it."""
    store = Store(tmp_path)
    claims = [Claim(tmp_path, "n", 1, Lease(), True), Claim(tmp_path, "n", 2, Lease(), False)]
    claims += [Claim(tmp_path, "n", token, Lease(), False, follows_ended=True) for token in (3, 4)]
    for claim in claims:
        store.begin("diffusion", "abc", claim)
        (store.place("diffusion", "abc", claim) / "checkpoint.pt").write_text(str(claim.token))
    assert sorted(path.name for path in (tmp_path / "diffusion").iterdir()) == ["abc.1", "abc.4"]


def test_a_copy_that_was_not_finished_is_not_gone_on_from(tmp_path, monkeypatch):
    store, claims = Store(tmp_path), [Claim(tmp_path, "n", token, Lease(), token == 1) for token in (1, 2, 3)]
    store.begin("diffusion", "abc", claims[0])
    (store.place("diffusion", "abc", claims[0]) / "checkpoint.pt").write_text("whole")

    def cut_short(source, target):
        with open(target, "w") as file:
            file.write("wh")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copy2", cut_short)
        with pytest.raises(KeyboardInterrupt):
            store.begin("diffusion", "abc", claims[1])
    store.begin("diffusion", "abc", claims[2])
    assert (store.place("diffusion", "abc", claims[2]) / "checkpoint.pt").read_text() == "whole"
    store.finish(StageRecord("diffusion", "abc", {}, {}), claims[2])
    assert [path.name for path in (tmp_path / "diffusion").iterdir()] == ["abc"]


def test_what_an_older_program_left_in_the_artifacts_own_folder_is_gone_on_from(tmp_path):
    store = Store(tmp_path)
    store.begin("diffusion", "abc")
    (tmp_path / "diffusion" / "abc" / "checkpoint.pt").write_text("half")
    claim = Claim(tmp_path, "n", 1, Lease(), is_sure=True)
    store.begin("diffusion", "abc", claim)
    assert (store.place("diffusion", "abc", claim) / "checkpoint.pt").read_text() == "half"
    assert not (tmp_path / "diffusion" / "abc").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"seconds": "a"}', '{"beats": 1}', '{"seconds": 10, "beat": 9}'])
def test_a_lease_that_is_none_is_one_sentence(tmp_path, text):
    store = Store(tmp_path)
    (tmp_path / "claims" / "lease.json").write_text(text)
    with pytest.raises(UserError, match=r"lease\.json"), store.claim("diffusion/abc", lambda: None):
        pass


@pytest.mark.slow
def test_a_frozen_process_is_taken_over_and_stops_when_it_wakes(tmp_path):
    """Two hosts, as far as they know: of both each artifact is made once, and the frozen one's checkpoint is copied."""
    store = with_lease(tmp_path, 1.0, 0.2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(host: str) -> "subprocess.Popen[str]":
        call = [sys.executable, "-c", WORKER, str(tmp_path), host, "diffusion"]
        return subprocess.Popen(call, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    with start("one") as first:
        wait_until((tmp_path / "one is in it").exists)
        first.send_signal(signal.SIGSTOP)
        with start("two") as second:
            wait_until((tmp_path / "two is in it").exists)
            (tmp_path / "go on").touch()
            assert second.wait(PATIENCE) == 0
        first.send_signal(signal.SIGCONT)
        said, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 2
    assert said.splitlines()[-1].startswith("diffusion/")
    assert "was taken over by" in said.splitlines()[-1]
    assert "gave no sign of life for 1 s: it stops here" in said.splitlines()[-1]
    made = [line.split(" ", 2) for line in (tmp_path / "made.txt").read_text().splitlines()]
    assert [tuple(line) for line in made if line[0] == "diffusion"] == [
        ("diffusion", "one", ""),
        ("diffusion", "two", "half of one"),
    ]
    assert sorted(line[0] for line in made if line[1] == "one") == ["diffusion", "first_stage", "latents"]
    [place] = (tmp_path / "diffusion").iterdir()
    record = store.record("diffusion", place.name)
    assert record is not None
    assert record.facts == {"host": "two"}
    assert (place / "weights").read_text() == "two"
    assert sorted(path.name for path in place.iterdir()) == ["record.json", "weights"]
    store.write_sweep(ledger.Sweep("s", "2026-01-01", "", ()))
    assert ledger.verify(store) == 0
