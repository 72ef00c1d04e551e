"""Claims: the right to make something in a store, held by one process at a time on whichever host.

A claim is a file `claims/<name>/<token>.json`. The highest token is the one that holds; a new one is made by exclusive
creation, which every file system has. Its holder counts up in it as a sign of life. Whoever waits watches the count
with a clock of its own, so that clocks of hosts need not agree.
"""

import contextlib
import functools
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ldm.errors import UserError

LEASE_FILE: Final = "lease.json"
PAUSES: Final = (0.02, 0.5)
"""Seconds between two looks at another's claim, the first and the longest."""


@dataclass(frozen=True)
class Lease:
    """How long a claim holds without a sign of life, and how often its holder gives one, in seconds."""

    seconds: float = 60.0
    beat: float = 10.0


@dataclass(frozen=True)
class Holder:
    """A process, told apart from others of the same number by its host, the host's start and its own."""

    host: str
    boot: str
    process: int
    started: str


@dataclass(frozen=True)
class Held:
    """The newest claim on something, as its file says; all but the token None or empty where it cannot be read.

    `beat`: how often its holder has given a sign of life. `is_over`: it was given back. `is_sure`: all that held
    before it had ended, for sure, so that nobody else can be at work.
    """

    token: int
    holder: Holder | None = None
    beat: int | None = None
    lease: float | None = None
    is_over: bool = False
    is_sure: bool = False


class LostClaimError(UserError):
    """Another process took over what this one was making, since it gave no sign of life."""


class Claim:
    """A claim that this process holds until it is given back, or is taken over by another one.

    `token` is its number: a later claim on the same has a higher one. `is_sure`: see `Held`. `follows_ended`: the one
    just before it has ended, for sure, whatever became of those before that.
    """

    def __init__(
        self, folder: Path, name: str, token: int, lease: Lease, is_sure: bool, follows_ended: bool = False
    ) -> None:
        self.folder, self.name, self.token, self.lease, self.is_sure = folder, name, token, lease, is_sure
        self.follows_ended = follows_ended
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name=f"claim on {name}", daemon=True)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process the same claim, which can be checked there; signs of life are given by this one alone."""
        return Claim, (self.folder, self.name, self.token, self.lease, self.is_sure, self.follows_ended)

    def is_lost(self) -> bool:
        """Whether another process has a later claim."""
        return max(tokens(self.folder), default=0) > self.token

    def check(self) -> None:
        """To be called before anything is written that others read. Raises: LostClaimError where it is not ours."""
        if not self.is_lost():
            return
        other = newest(self.folder)
        by = f"process {other.holder.process} on {other.holder.host}" if other and other.holder else "another process"
        raise LostClaimError(
            f"{self.name} was taken over by {by}, since this process gave no sign of life for "
            f"{self.lease.seconds:g} s: it stops here, and what it made of it is dropped"
        )

    def begin(self) -> None:
        """Gives signs of life from now on."""
        self._beating.start()

    def end(self) -> None:
        """Gives the claim back."""
        self._ended.set()
        self._beating.join()
        if not self.is_lost():
            with contextlib.suppress(OSError):
                self._write(beat=0, is_over=True)

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(self.lease.beat) and not self.is_lost():
            count += 1
            with contextlib.suppress(OSError):  # a disk that is full for a moment; others judge by what they see
                self._write(beat=count, is_over=False)

    def _write(self, beat: int, is_over: bool) -> None:
        path = self.folder / f"{self.token}.json"
        temporary = path.with_suffix(".new")
        temporary.write_text(self.text(beat, is_over), encoding="utf-8")
        os.replace(temporary, path)

    def text(self, beat: int, is_over: bool) -> str:
        """What the claim's file says."""
        held = Held(self.token, this_process(), beat, self.lease.seconds, is_over, self.is_sure)
        return json.dumps(asdict(held))


@contextmanager
def hold(root: Path, name: str, waiting: Callable[[], None]) -> Iterator[Claim]:
    """Holds the claim on `name` below a folder; waits where another process has it, after a call of `waiting`."""
    claim = _taken(root, name, waiting)
    claim.begin()
    try:
        yield claim
    finally:
        claim.end()


def at_work(root: Path, name: str) -> Held | None:
    """The claim under which some process works on `name`, as far as one look tells: on other hosts, by its last sign.

    None where nobody does.
    """
    folder = folder_of(root, name)
    held = newest(folder)
    if held is None or held.is_over or _has_ended(held):
        return None
    if held.holder is not None and _is_here(held.holder):
        return held
    with contextlib.suppress(OSError):
        if time.time() - _last_sign(folder, held) >= (held.lease or Lease.seconds):
            return None
    return held


def began(root: Path, name: str, held: Held) -> float | None:
    """About when a claim was taken, in seconds since 1970 by the clock of its file; None where it cannot be told."""
    with contextlib.suppress(OSError):
        return _last_sign(folder_of(root, name), held) - (held.beat or 0) * lease_of(root).beat
    return None


def _last_sign(folder: Path, held: Held) -> float:
    return (folder / f"{held.token}.json").stat().st_mtime


def folder_of(root: Path, name: str) -> Path:
    """Where the claims on `name` lie."""
    return root / name.replace("/", "-")


def lease_of(root: Path) -> Lease:
    """The lease that a store asks for in `claims/lease.json`, such as {"seconds": 60, "beat": 10}; else the default.

    Raises: UserError where the file is none.
    """
    path = root / LEASE_FILE
    if not path.exists():
        return Lease()
    try:
        lease = Lease(**{name: float(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f'{path} is no lease ({error}); write {{"seconds": 60, "beat": 10}}, or remove it') from error
    if not 0 < 2 * lease.beat < lease.seconds:
        raise UserError(
            f"{path}: seconds must be more than twice the beat, so that one late sign of life costs nothing"
        )
    return lease


def can_be_held(root: Path) -> bool:
    """Whether files are created exclusively there, on which claims rest."""
    path = root / "trial"
    with open(path, "x", encoding="utf-8"):
        pass
    try:
        with open(path, "x", encoding="utf-8"):
            return False
    except FileExistsError:
        return True
    finally:
        path.unlink()


def tokens(folder: Path) -> list[int]:
    """The tokens of all claims on something that lie there."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [int(stem) for stem, _, end in (name.partition(".") for name in names) if end == "json" and stem.isdigit()]


def newest(folder: Path) -> Held | None:
    """The newest claim on something, None where nobody ever had one."""
    token = max(tokens(folder), default=None)
    if token is None:
        return None
    try:
        said: dict[str, Any] = json.loads((folder / f"{token}.json").read_text(encoding="utf-8"))
        return Held(**{**said, "holder": Holder(**said["holder"])})
    except (OSError, ValueError, TypeError, KeyError):
        return Held(token)  # just being written, or cut short by a crash


def _taken(root: Path, name: str, waiting: Callable[[], None]) -> Claim:
    """A claim of one's own, after what was there has ended or has given no sign of life for its lease."""
    folder, lease, pause = folder_of(root, name), lease_of(root), PAUSES[0]
    folder.mkdir(parents=True, exist_ok=True)
    seen, since, has_said = None, time.monotonic(), False
    while True:
        held = newest(folder)
        ended = held is None or held.is_over or _has_ended(held)
        if (held and (held.token, held.beat)) != seen:
            seen, since = held and (held.token, held.beat), time.monotonic()
        patience = held.lease if held and held.lease else lease.seconds
        if held is None or ended or time.monotonic() - since > patience:
            is_sure = held is None or (ended and held.is_sure)
            claim = Claim(folder, name, held.token + 1 if held else 1, lease, is_sure, ended)
            if _create(claim):
                return claim
            continue
        if not has_said:
            waiting()
            has_said = True
        time.sleep(pause)
        pause = min(1.5 * pause, PAUSES[1])


def _create(claim: Claim) -> bool:
    """Makes the claim's file; False where another process was quicker."""
    path = claim.folder / f"{claim.token}.json"
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(claim.text(beat=0, is_over=False))
    except FileExistsError:
        return False
    if claim.is_lost():  # it had looked before others came and went
        path.unlink(missing_ok=True)
        return False
    for token in tokens(claim.folder):
        if token < claim.token:
            (claim.folder / f"{token}.json").unlink(missing_ok=True)
    return True


def _is_here(holder: Holder) -> bool:
    """Whether a holder is a process of this host since its start, which can be looked at."""
    mine = this_process()
    return bool(mine.boot) and (holder.host, holder.boot) == (mine.host, mine.boot)


def _has_ended(held: Held) -> bool:
    """Whether the holder is a process of this host that is no more, whoever has its number now."""
    return held.holder is not None and _is_here(held.holder) and _started(held.holder.process) != held.holder.started


def this_process() -> Holder:
    """This process, as its claims name it."""
    number = os.getpid()
    return Holder(platform.node(), _boot(), number, _started(number))


@functools.cache
def _boot() -> str:
    """What names this start of this host and, of it, the processes that see each other; "" where nothing tells."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{started} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(process: int) -> str:
    """When a process of this host started, in the kernel's ticks; "" for one that has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
