"""Weights & Biases. Offline by default: runs lie under <store>/wandb and `wandb sync` uploads them.

Steps are never given to W&B, which drops what comes below the last one after a resume; `images_seen` is the axis
instead. Every run of a stage holds its record as a file, and online in an artifact, for the lineage.
"""

import contextlib
import netrc
import os
import shutil
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.console import say
from experiments.tracking.runs import About, made, results_of
from ldm.errors import UserError
from ldm.records import StageRecord, sealed, write_json

WORDS = {"dryrun": "offline", "run": "online", "shared": "online", "disable": "disabled"}
"""Values of WANDB_MODE that are called otherwise here."""

HEADER_BYTES = 7
"""Size of a run file that a kill left before anything was written to it; `wandb sync` stops at such a file."""

LIVE_SECONDS = 120.0
"""A run file this young may still be written to."""

INIT_SECONDS = 60.0
FINISH_SECONDS = 60.0
"""How long the upload of one run may hold up a sweep at its end."""

SERVERS = ("api.wandb.ai", "api.forge.coreweave.com")
"""W&B's own servers, as the file of logins calls them; WANDB_BASE_URL names another."""

NAME_LENGTH = 128
"""As long as W&B takes the name of a run, such as the command of a sweep."""

RECORD = "record.json"
"""The file of a run that holds the record of its stage."""

MADE = "made"
"""The value of a run's summary that tells the records, or the sweep, apart that it shows."""


class WandbRun:
    """An open run. One that the server holds as finished is told nothing again but its results."""

    def __init__(self, run: Any, about: About) -> None:
        self.run, self.about = run, about
        self.is_finished = bool(run.resumed) and run.summary.get(MADE) is not None

    def go_on_from(self, images_seen: int) -> None:
        """Nothing to do: results stand at no step."""

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Values at that many images seen."""
        if not self.is_finished:
            self.run.log({"images_seen": images_seen, **values})

    def image(self, path: Path) -> None:
        """A picture that lies on disk."""
        import wandb

        if not self.is_finished:
            self.run.log({path.stem: wandb.Image(str(path))})

    def finish(self, *records: StageRecord) -> None:
        """The results of the records as the summary; of a run of a stage also its record."""
        for record in records:
            if record.stage == self.about.job_type:
                public = {name: value for name, value in record.environment.items() if name != "host"}
                self.file(RECORD, sealed(replace(record, environment=public).to_json()))
                if not self.run.offline:
                    self._lineage(record)
        self.run.summary.update(results_of(records))
        self.mark(made(records))

    def mark(self, shown: str) -> None:
        """Says which content the run shows; last of all, since a push leaves a run as it is that says so."""
        self.run.summary.update({MADE: shown})

    def file(self, name: str, content: Mapping[str, Any]) -> None:
        """A JSON file of the run."""
        path = Path(self.run.dir) / name
        write_json(path, content)
        self.run.save(str(path), base_path=self.run.dir, policy="now")

    def _lineage(self, record: StageRecord) -> None:
        """The artifact of the stage, made of those of its parents; W&B cannot say it of a run that is offline."""
        import wandb

        for stage, identity in record.parents.items():
            try:
                self.run.use_artifact(f"{stage}-{identity}:latest")
            except (wandb.errors.Error, ValueError) as error:  # such as a parent that was never uploaded
                why = without_key(error)
                say(f"W&B does not show that {self.about.name} was made of its {stage} ({why})", style="yellow")
        axes = {key: value for key, value in self.about.config.items() if "/" not in key}  # at most 100 are taken
        artifact = wandb.Artifact(f"{record.stage}-{record.identity}", record.stage, metadata=axes)
        artifact.add_file(str(Path(self.run.dir) / RECORD))
        self.run.log_artifact(artifact)


def silent_wandb() -> Any:
    """W&B's package, which says nothing of its own unless WANDB_SILENT tells it to."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    return wandb


def mode_of(given: str) -> str:
    """`tracker.mode`, or what W&B's own variables of the environment say in its place."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes"):
        return "disabled"
    asked = os.environ.get("WANDB_MODE", given)
    return WORDS.get(asked, asked if asked in ("offline", "online", "disabled") else given)


def check(given: str, store: Path) -> list[str]:
    """Notes on how W&B is used, before anything runs; run files that hold nothing are removed.

    Raises: UserError where runs are to be uploaded and nobody has logged in.
    """
    mode = mode_of(given)
    if mode == "online":
        key = "WANDB_MODE" if mode_of("offline") == mode else "tracker.mode"  # a variable overrules the setting
        check_login(f"{key}={os.environ.get(key, mode)}", f", or use {key}=offline and `wandb sync` later")
    if mode != "disabled":
        _remove_empty_runs(store)
    return [] if mode == given else [f"W&B is {mode}, as WANDB_MODE or WANDB_DISABLED says, not tracker.mode={given}"]


def check_login(asked: str, otherwise: str = "") -> None:
    """Raises: UserError where nobody has logged in, which `asked` needs; `otherwise`: what could be done instead."""
    if not _is_logged_in():
        raise UserError(f"{asked}, but nobody has logged in to W&B here: wandb login, or set WANDB_API_KEY{otherwise}")


def _is_logged_in() -> bool:
    return bool(_keys()) or bool(os.environ.get("WANDB_IDENTITY_TOKEN_FILE"))


def _keys() -> list[str]:
    """The API keys that W&B would find: of its variable, and of the file of logins."""
    given = os.environ.get("WANDB_BASE_URL")
    servers = [urllib.parse.urlparse(given).netloc] if given else SERVERS
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        found = []
    else:
        found = [login[2] for server in servers if (login := logins.authenticators(server)) is not None]
    return [key for key in (os.environ.get("WANDB_API_KEY"), *found) if key]


def _remove_empty_runs(store: Path) -> None:
    """Removes the offline runs that a kill left before anything was written: one of them stops `wandb sync`."""
    for file in store.glob("wandb/offline-run-*/*.wandb"):
        stat = file.stat()
        if stat.st_size <= HEADER_BYTES and time.time() - stat.st_mtime > LIVE_SECONDS:
            shutil.rmtree(file.parent, ignore_errors=True)


def without_key(error: BaseException) -> str:
    """An error of W&B in one line, in which no API key and no identity token stands, nor either as URLs have it."""
    text = " ".join(str(error).split())
    for secret, name in _secrets():
        for form in (secret, urllib.parse.quote(secret), urllib.parse.quote(secret, safe="")):
            text = text.replace(form, f"(the {name})")
    return text


def _secrets() -> list[tuple[str, str]]:
    """What W&B logs in with, and what each is called."""
    token = ""
    with contextlib.suppress(OSError, ValueError):  # W&B has not read it then either
        token = Path(os.environ.get("WANDB_IDENTITY_TOKEN_FILE", "")).read_text(encoding="utf-8").strip()
    return [*((key, "API key") for key in _keys()), *([(token, "identity token")] if token else [])]


@contextlib.contextmanager
def as_sentence(failed: str) -> Iterator[None]:
    """Raises: UserError for an error of W&B, with none of its own behind it: a key may stand in them."""
    wandb = silent_wandb()
    try:
        yield
    except (wandb.errors.Error, ValueError) as error:
        raise UserError(f"{failed} ({without_key(error)})") from None


def _end(run: Any, code: int, failed: list[str]) -> None:
    """Ends a run; why that cannot be is put into `failed`, since what a thread raises is shown as it is, and lost."""
    try:
        run.finish(exit_code=code)
    except Exception as error:
        failed.append(without_key(error))


class WandbMirror:
    """Runs of one W&B project.

    A server that does not answer costs a limited time, once: from then on runs are kept offline.
    """

    def __init__(self, store: Path, mode: str, project: str, entity: str | None) -> None:
        self.store, self.mode, self.project, self.entity = store, mode, project, entity
        self._ended: list[tuple[Any, int]] = []

    @contextlib.contextmanager
    def run(self, about: About) -> Iterator[WandbRun]:
        """The run of that identity, which goes on where the server has it already.

        Raises: UserError for what W&B cannot do, with none of its own errors behind it: a key may stand in them.
        """
        wandb = silent_wandb()
        try:
            opened = self._opened(wandb, about)
            opened.define_metric("images_seen")
            opened.define_metric("*", step_metric="images_seen")
            code = 1
            try:
                yield WandbRun(opened, about)
                code = 0
            finally:
                self._ended.append((opened, code))
        except wandb.errors.Error as error:
            why = without_key(error)
            raise UserError(f"W&B does not take {about.name} ({why}): tracker=none tracks nothing") from None

    def settle(self) -> None:
        """Ends the runs of finished stages; to be called where no other process waits."""
        ended, self._ended = self._ended, []
        for run, code in ended:
            failed = list[str]()
            upload = threading.Thread(target=_end, args=(run, code, failed), daemon=True)
            upload.start()
            upload.join(FINISH_SECONDS)
            if self.mode == "online" and failed:
                self._go_on_offline(f"has not taken a run ({failed[0]})")
            elif self.mode == "online" and upload.is_alive():
                self._go_on_offline(f"has not taken a run within {FINISH_SECONDS:.0f} s")
            elif failed:
                say(f"W&B could not end a run ({failed[0]})", style="yellow")

    def _go_on_offline(self, why: str) -> None:
        self.mode = "offline"
        say(f"W&B {why}: runs are kept offline from here on, `wandb sync` uploads them later", style="yellow")

    def _opened(self, wandb: Any, about: About) -> Any:
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            x_disable_stats=True,
            x_disable_meta=True,  # records hold the machine that computed, which need not be the one that uploads
            x_save_requirements=False,
            init_timeout=INIT_SECONDS,
        )

        def opened() -> Any:
            return wandb.init(
                project=self.project,
                entity=self.entity,
                id=about.identity,
                name=about.name[:NAME_LENGTH],
                group=about.group,
                job_type=about.job_type,
                tags=list(about.tags),
                config=dict(about.config),
                dir=str(self.store),
                mode=self.mode,
                resume="allow" if self.mode == "online" else None,
                reinit="create_new",
                settings=settings,
            )

        try:
            return opened()
        except wandb.errors.Error as error:
            if self.mode != "online":
                raise
            self._go_on_offline(f"cannot be reached ({without_key(error)})")
            wandb.teardown()  # whose process holds the id of the run that was not opened
            return opened()
