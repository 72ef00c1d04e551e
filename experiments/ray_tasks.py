"""Stages as tasks of Ray: each waits for the tasks of its parents, and is begun again when its node dies.

A task runs `run.py` told its stage, as in every launcher; what it says lies in `<store>/ray/<sweep>/`. Objects of Ray
carry nothing but whether a stage was made: all else is in the store, which all nodes see.
"""

import importlib.util
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from experiments.console import say
from experiments.stopping import PARENT
from experiments.store import Store
from experiments.submissions import Task, check_devices, tasks_due
from experiments.sweep import Due, repeated, sweep_handed
from experiments.workers import PATIENCE_SECONDS, THREAD_VARIABLES
from ldm.errors import UserError
from ldm.parts import checked, option

FOLDER: Final = "ray"
"""Below a store."""


@dataclass(frozen=True)
class Resources:
    """What each task asks for, and where: the settings of `hydra/launcher=ray`.

    `gpus_per_task` of a task that computes on a GPU is 1 where it is null.
    """

    title = "hydra/launcher=ray"

    address: str | None = option(None, help="of a running cluster; null: $RAY_ADDRESS, else one of this machine")
    cpus_per_task: int = option(2, low=1, help="cores, and threads, of a task")
    gpus_per_task: float | None = option(None, low=0, help="may be a part of one; null: 1 where it computes on a GPU")
    mem_gb: float | None = option(None, above=0, unit="GB", help="that a task reserves")
    retries: int = option(3, low=0, help="times that a task whose node or process died is begun again")
    wait_for_nodes: bool = option(False, help="whether to wait for nodes that are large enough")

    def __post_init__(self) -> None:
        """Raises: UserError for parts of several GPUs, which Ray does not give."""
        gpus = self.gpus_per_task
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise UserError(f"hydra.launcher.gpus_per_task={gpus}: give a part of one GPU, or a whole number of them")

    def needed(self, with_gpu: bool) -> dict[str, float]:
        """What a node must have for a task, in Ray's words."""
        gpus = float(with_gpu) if self.gpus_per_task is None else self.gpus_per_task
        memory = {} if self.mem_gb is None else {"memory": self.mem_gb * 2**30}
        return {"CPU": self.cpus_per_task, **({"GPU": gpus} if gpus else {}), **memory}

    def options(self, with_gpu: bool) -> dict[str, Any]:
        """The same as options of a task."""
        needed = self.needed(with_gpu)
        memory = {"memory": needed["memory"]} if "memory" in needed else {}
        # What the program itself raises would be raised again; what ended with a node is begun again.
        again = {"max_retries": self.retries, "retry_exceptions": False}
        return {"num_cpus": needed["CPU"], "num_gpus": needed.get("GPU", 0), **memory, **again}


@dataclass(frozen=True)
class Ended:
    """What became of a task: whether its stage was made; `error`: why it could not even begin."""

    is_made: bool
    error: str | None = None


@dataclass(frozen=True)
class Call:
    """A command as a task calls it, the same on every node: where, and where to what it says is added."""

    command: tuple[str, ...]
    folder: str
    log: str
    threads: int


def resources_of(launcher: Any) -> Resources:
    """What tasks ask for, of the composed settings under hydra.launcher. Raises: UserError for one that cannot be."""
    return checked(Resources, {key: value for key, value in launcher.items() if key != "_target_"}, "hydra.launcher")


def check_installed() -> None:
    """Raises: UserError where there is no Ray."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("hydra/launcher=ray needs packages: pip install -e '.[ray]'")


def run(store: Store, jobs: Sequence[Due], resources: Resources) -> None:
    """Runs the jobs, which come parents first, on the nodes of a cluster, and returns when all have ended.

    Raises: UserError where there is no cluster, or none of its nodes is large enough.
    """
    import ray

    tasks = tasks_due(jobs)
    check_devices(tasks, resources.needed(True).get("GPU", 0), "task", "hydra.launcher.gpus_per_task")
    _connect(resources.address)
    _check_nodes([node["Resources"] for node in ray.nodes() if node["Alive"]], tasks, resources)
    make, futures = ray.remote(_make), list[Any]()
    for task, job in zip(tasks, jobs, strict=True):
        named = make.options(name=" ".join(task.key), **resources.options(task.with_gpu))
        futures.append(named.remote(_call(store, task, resources), *(futures[number] for number in job.after)))
    try:
        _wait(futures, tasks, jobs, store)
    except BaseException:
        for future in futures:
            ray.cancel(future)
        ray.wait(futures, num_returns=len(futures), timeout=1.5 * PATIENCE_SECONDS)  # in which each has saved
        raise


def _connect(given: str | None) -> None:
    """To the cluster, once a process. Raises: UserError where it does not answer."""
    import ray

    if ray.is_initialized():
        return
    address = given or os.environ.get("RAY_ADDRESS") or "local"  # by itself Ray joins whatever cluster runs here
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what runs here is nobody else's business
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({str(error).splitlines()[0]}): start one with ray start --head, "
            "give its address with hydra.launcher.address=HOST:PORT, or none for one of this machine"
        ) from error


def _check_nodes(nodes: Sequence[Mapping[str, float]], tasks: Collection[Task], resources: Resources) -> None:
    """Raises: UserError where no node, by what it has, is large enough for a task, and none is waited for."""
    for with_gpu in {task.with_gpu for task in tasks}:
        needed = resources.needed(with_gpu)
        if any(all(node.get(kind, 0) >= count for kind, count in needed.items()) for node in nodes):
            continue
        most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in needed}
        sentence = (
            f"no node of the Ray cluster has what a task asks for ({_said(needed)}; the most that one has: "
            f"{_said(most)})"
        )
        if not resources.wait_for_nodes:
            raise UserError(
                f"{sentence}: ask for less with hydra.launcher.cpus_per_task=, gpus_per_task= or mem_gb=, or wait for "
                "nodes that join with hydra.launcher.wait_for_nodes=true"
            )
        say(f"{sentence}; waiting for one to join", style="yellow")


def _said(resources: Mapping[str, float]) -> str:
    units = {"CPU": (1, "cores"), "GPU": (1, "GPUs"), "memory": (2**30, "GB of memory")}
    return ", ".join(f"{count / units[kind][0]:.3g} {units[kind][1]}" for kind, count in resources.items())


def _call(store: Store, task: Task, resources: Resources) -> Call:
    log = store.root.absolute() / FOLDER / sweep_handed(task.overrides) / f"{task.stage}-{task.identity}.log"
    return Call(tuple(task.command()[1:]), os.getcwd(), str(log), resources.cpus_per_task)


def _make(call: Call, *parents: Ended) -> Ended:
    """A task, on the node that has room for it: nothing is done where a parent was not made."""
    if not all(parent.is_made for parent in parents):
        return Ended(is_made=False)
    # The child is told whose it is: it saves and ends when this process dies with its node, or is killed by Ray.
    told = {PARENT: str(os.getpid()), **dict.fromkeys(THREAD_VARIABLES, str(call.threads))}
    try:
        Path(call.log).parent.mkdir(parents=True, exist_ok=True)
        with open(call.log, "ab") as log:
            child = subprocess.Popen(
                [sys.executable, *call.command],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=call.folder,
                env={**os.environ, **told},
            )
    except OSError as error:
        return Ended(
            False,
            f"node {socket.gethostname()} cannot begin it ({error}); project and store must lie, under the same "
            "names, on a disk that all nodes see",
        )
    try:
        return Ended(_waited_for(child) == 0)
    except BaseException:  # taken back: what it trained is saved
        child.terminate()
        try:
            child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
        raise


def _waited_for(child: "subprocess.Popen[bytes]") -> int:
    """The exit code of a process, in waits that end: what takes a task of Ray back interrupts no other."""
    while True:
        try:
            return child.wait(1.0)
        except subprocess.TimeoutExpired:
            continue


def _wait(futures: Sequence[Any], tasks: Sequence[Task], jobs: Sequence[Due], store: Store) -> None:
    """Takes in what became of each task, as they end."""
    import ray

    left = {future: number for number, future in enumerate(futures)}
    while left:
        [future], _ = ray.wait(list(left), num_returns=1)
        number = left.pop(future)
        task, job = tasks[number], jobs[number]
        try:
            ended = ray.get(future)
        except ray.exceptions.RayError as error:
            _say_lost(task, f"Ray lost it: {str(error).splitlines()[0]}", job.may_begin())
        else:
            if ended.error and job.may_begin():
                store.fail(*task.key, UserError(ended.error), repeated(task.overrides))
        job.ended()


def _say_lost(task: Task, reason: str, is_its_own: bool) -> None:
    """Says why nothing became of a task, unless one that it waited for is to blame."""
    if is_its_own:
        say(f"  {' '.join(task.key)}: {reason}", style="yellow")
