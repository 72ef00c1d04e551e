"""Stages as tasks of Ray: by a stand-in that runs tasks at once, what is asked of it and what becomes of failures."""

import _thread
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from program import ROOT

from experiments import ray_tasks
from experiments.ray_tasks import Call, Ended, Resources, resources_of, run
from experiments.store import Store
from experiments.sweep import Due
from ldm.errors import UserError


class RayError(Exception):
    """What Ray raises where it lost a task."""


class Ray(types.ModuleType):
    """Calls tasks when they are asked for, on one node; `lost`: names of tasks whose node dies too often."""

    def __init__(self, lost: Sequence[str] = ()) -> None:
        super().__init__("ray")
        self.exceptions = types.SimpleNamespace(RayError=RayError)
        self.lost, self.asked, self.results, self.cancelled = lost, dict[str, Any](), list[Any](), list[int]()

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        here = {"CPU": 4.0, "GPU": 1.0, "memory": 8.0 * 2**30}
        return [{"Alive": True, "Resources": here}, {"Alive": False, "Resources": {"CPU": 64.0}}]

    def remote(self, function: Callable[..., Any]) -> Any:
        def called(name: str, *arguments: Any) -> int:
            given = [self.results[each] if isinstance(each, int) else each for each in arguments]
            broken = next((each for each in given if isinstance(each, RayError)), None)
            if name in self.lost:
                broken = RayError("the node died\nits whole story")
            self.results.append(broken or function(*given))
            return len(self.results) - 1

        def options(name: str, **asked: Any) -> Any:
            self.asked[name] = asked
            return types.SimpleNamespace(remote=lambda *arguments: called(name, *arguments))

        return types.SimpleNamespace(options=options)

    def wait(self, futures: Sequence[int], **others: Any) -> tuple[list[int], list[int]]:
        return list(futures[:1]), list(futures[1:])

    def get(self, future: int) -> Any:
        if isinstance(self.results[future], Exception):
            raise self.results[future]
        return self.results[future]

    def cancel(self, future: int) -> None:
        self.cancelled.append(future)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    monkeypatch.setitem(sys.modules, "ray", found := Ray())
    return found


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Stages that tasks made; one that trains at a rate of 1e30 fails."""
    found = set[str]()

    def make(call: Call, *parents: Ended) -> Ended:
        if not all(parent.is_made for parent in parents):
            return Ended(is_made=False)
        stage = next(each.partition("=")[2] for each in call.command if each.startswith("sweep.target="))
        if any("rate=1e30" in each for each in call.command):
            return Ended(is_made=False)
        found.add(stage)
        return Ended(is_made=True)

    monkeypatch.setattr(ray_tasks, "_make", make)
    return found


def chain(*stages: str, device: str = "cpu", extra: str = "a=1", ended: Callable[[], None] = lambda: None) -> list[Due]:
    """Jobs of which each waits for the one before; none may begin but the first, since nothing is in the store."""
    return [
        Due(
            (f"sweep.target={stage}", f"sweep.identity='{stage}'", f"device={device}", extra, "sweep.id=s"),
            (number - 1,) if number else (),
            (lambda number=number: number == 0),
            ended,
        )
        for number, stage in enumerate(stages)
    ]


def test_each_task_waits_for_its_parents_and_asks_for_a_part_of_a_node(ray, made, tmp_path):
    over = list[int]()
    jobs = chain("first_stage", "latents", device="cuda", ended=lambda: over.append(1))
    run(Store(tmp_path), jobs, Resources(gpus_per_task=0.25, mem_gb=2, cpus_per_task=3, retries=5))
    assert made == {"first_stage", "latents"}
    assert len(over) == 2
    asked = {"num_cpus": 3, "num_gpus": 0.25, "memory": 2 * 2**30, "max_retries": 5, "retry_exceptions": False}
    assert ray.asked == {"first_stage first_stage": asked, "latents latents": asked}


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 0), ("cuda", 1)])
def test_a_task_has_a_gpu_where_it_computes_on_one(ray, made, tmp_path, device, gpus):
    run(Store(tmp_path), chain("first_stage", device=device), Resources())
    assert ray.asked["first_stage first_stage"]["num_gpus"] == gpus


def test_what_hangs_on_a_failed_stage_is_not_made(ray, made, tmp_path):
    run(Store(tmp_path), chain("first_stage", "latents", "diffusion", extra="rate=1e30"), Resources())
    assert not made
    assert len(ray.results) == 3


def test_a_task_that_ray_lost_is_named_and_not_those_that_hang_on_it(ray, made, tmp_path, capsys):
    ray.lost = ["first_stage first_stage"]
    run(Store(tmp_path), chain("first_stage", "latents"), Resources())
    assert not made
    said = capsys.readouterr().out
    assert "first_stage first_stage: Ray lost it: the node died" in said
    assert "latents" not in said


def test_an_interrupt_takes_all_tasks_back(ray, made, tmp_path):
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Store(tmp_path), chain("first_stage", "latents", ended=interrupt), Resources())
    assert ray.cancelled == [0, 1]


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (Resources(cpus_per_task=8), "(8 cores; the most that one has: 4 cores)"),  # a node that is gone has them
        (Resources(mem_gb=16), "(2 cores, 16 GB of memory; the most that one has: 4 cores, 8 GB of memory)"),
        (Resources(gpus_per_task=2), "(2 cores, 2 GPUs; the most that one has: 4 cores, 1 GPUs)"),
    ],
)
def test_tasks_too_large_for_every_node_are_refused_or_waited_for(ray, made, tmp_path, capsys, resources, words):
    with pytest.raises(UserError, match="wait_for_nodes=true") as refused:
        run(Store(tmp_path), chain("first_stage"), resources)
    assert words in str(refused.value)
    run(Store(tmp_path), chain("first_stage"), dataclasses.replace(resources, wait_for_nodes=True))
    assert "waiting for one to join" in " ".join(capsys.readouterr().out.split())
    assert made == {"first_stage"}


def test_a_node_that_does_not_see_the_project_is_named_as_the_reason(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_tasks.os, "getcwd", lambda: str(tmp_path / "elsewhere"))
    run(Store(tmp_path), chain("first_stage", "latents"), Resources())
    failure = Store(tmp_path).failure("first_stage", "first_stage")
    assert failure is not None
    assert "on a disk that all nodes see" in failure.error
    assert Store(tmp_path).failure("latents", "latents") is None


def test_a_task_runs_its_command_with_its_threads_and_keeps_what_it_says(tmp_path):
    log = tmp_path / "logs" / "one.log"
    told = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['LDM_PARENT'] == str(os.getppid()))"
    assert ray_tasks._make(Call(("-c", told), str(tmp_path), str(log), 3)) == Ended(is_made=True)
    assert log.read_text().split() == ["3", "True"]
    assert ray_tasks._make(Call(("-c", "raise SystemExit(1)"), str(tmp_path), str(log), 3)) == Ended(is_made=False)
    assert ray_tasks._make(Call(("-c", "0"), str(tmp_path), str(log), 3), Ended(is_made=False)) == Ended(is_made=False)


SAVES_WHEN_ASKED = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path(sys.argv[1]).touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("at work", flush=True)
time.sleep(60)
"""


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is heard, also where the tests run in the background of a shell, which has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_task_that_is_taken_back_has_its_process_save(interruptible, tmp_path):
    """Ray interrupts the main thread of its worker, as here."""
    (tmp_path / "work.py").write_text(SAVES_WHEN_ASKED)
    log, saved = tmp_path / "log", tmp_path / "saved"

    def interrupt() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (log.exists() and log.read_text()):
            time.sleep(0.05)
        _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        ray_tasks._make(Call((str(tmp_path / "work.py"), str(saved)), str(tmp_path), str(log), 1))
    assert saved.exists()


def test_a_training_is_not_divided_over_more_gpus_than_its_task_has(ray, made, tmp_path):
    jobs = chain("first_stage", device="cuda", extra="trainer.devices=2")
    with pytest.raises(UserError, match=r"devices=2 and a task has 1 GPUs: give hydra\.launcher\.gpus_per_task=2"):
        run(Store(tmp_path), jobs, Resources())
    ray.nodes = lambda: [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}]
    run(Store(tmp_path), jobs, Resources(gpus_per_task=2))
    assert made == {"first_stage"}


CHILD = """
import pathlib, time
from experiments.stopping import StoppedError, stop_on_signals, stop_with_parent
stop_on_signals()
stop_with_parent()
print("at work", flush=True)
try:
    time.sleep(60)
except StoppedError:
    pathlib.Path(__file__ + ".stopped").touch()
"""
PARENT_OF_IT = """
import os, subprocess, sys
told = {**os.environ, "LDM_PARENT": str(os.getpid()), "PYTHONPATH": "."}
subprocess.Popen([sys.executable, sys.argv[1]], env=told).wait()
"""


@pytest.mark.long
def test_a_process_whose_parent_is_killed_stops_by_itself(tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT_OF_IT, str(tmp_path / "child.py")], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline()  # the child is at work
    process.send_signal(signal.SIGKILL)
    assert process.stdout.read() == b""  # when the last that holds it has ended
    assert (tmp_path / "child.py.stopped").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gpus_per_task": 1.5}, "a part of one GPU, or a whole number"),
        ({"cpus_per_task": 0}, "hydra.launcher.cpus_per_task=0"),
        ({"cpus": 1}, "hydra.launcher.cpus=1 is no option"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        resources_of(given)


def test_without_ray_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(ray_tasks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.\[ray\]'"):
        ray_tasks.check_installed()


def test_logs_lie_in_the_store(tmp_path):
    [task] = ray_tasks.tasks_due(chain("first_stage"))
    call = ray_tasks._call(Store(tmp_path / "store"), task, Resources())
    assert Path(call.log) == tmp_path / "store" / "ray" / "s" / "first_stage-first_stage.log"
    assert call.folder == os.getcwd()
