"""Runs commands of the program in forks of one process that has its imports behind it.

Importing torch takes longer than many tiny runs compute, and so do reading the networks that judge and Hydra's files.
A command has its own arguments, working folder, output and exit code, as in a process that starts afresh.
"""

import atexit
import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from parsed_once import parse_once

IMPORTED = ("experiments.main", "hydra.main", "torch._dynamo")


class WarmPython:
    """A process that has imported what run.py of `root` imports, in this environment, until the tests end."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self.root = root
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, __file__, root], stdin=pipe, stdout=pipe, text=True, env=environment, cwd=root
        )
        atexit.register(self._process.communicate)  # the end of its input is its end

    def run(self, arguments: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
        """Runs `python SCRIPT ...` or `python -m MODULE ...` in a folder to the end."""
        assert self._process.stdin
        assert self._process.stdout
        with tempfile.TemporaryDirectory() as place:
            files = [Path(place) / name for name in ("stdout", "stderr")]
            asked = [list(arguments), str(folder), [str(file) for file in files]]
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(arguments, code, *(file.read_text() for file in files))


def _asked() -> Iterator[list[str]]:
    """In a fork for each command its arguments, when all else is as it asks for; in this process nothing."""
    for line in sys.stdin:
        child = os.fork()
        if child:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        arguments, folder, outputs = json.loads(line)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(outputs, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        os.chdir(folder)
        yield arguments
        return


def _read_once() -> None:
    """What nearly every command reads first: Hydra's plugins, the files of conf/, the weights in packages."""
    from hydra.core.global_hydra import GlobalHydra

    from experiments.compose import composed
    from ldm.pretrained import efficientnet_lite

    parse_once()
    composed(["scale=tiny"])
    GlobalHydra.instance().clear()
    for variant in efficientnet_lite.VARIANTS:
        efficientnet_lite.load(variant)


def _serve(root: str) -> None:
    sys.path[0] = root
    for name in IMPORTED:
        __import__(name)
    _read_once()
    gc.freeze()  # else the first collection of each fork would copy all that is here
    for arguments in _asked():
        if arguments[0] == "-m":
            sys.path[0], sys.argv = os.getcwd(), arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.path[0], sys.argv = str(Path(arguments[0]).parent), arguments
            runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1])
