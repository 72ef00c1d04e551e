"""This machine, its weights, data and store: python -m experiments.doctor [--store DIR] [KEY=VALUE ...]."""

import importlib
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments import claims
from experiments.cli import assigned, exit_code, sentence_for, with_scale, without
from experiments.compose import composed, settings_only
from experiments.conditions import CONDITIONS, conditions_of
from experiments.console import say
from experiments.counts import lpips_file
from experiments.custom import is_custom
from experiments.data_facts import DataFacts
from experiments.images import data_facts, splits
from experiments.plan import make_plan
from experiments.resolve import with_scale_sizes
from experiments.scoring import left_out_by_number
from experiments.stage import Plan
from experiments.stage_settings import other_extractors
from experiments.stages import STAGES
from experiments.store import Store
from experiments.tables import filled
from experiments.tracking import check_tracking, mode_of
from ldm.data.contract import ImageSource, Split, UnusableImage
from ldm.data.listing import WORDS
from ldm.errors import UserError
from ldm.metrics.extractors import EXTRACTORS
from ldm.metrics.features import INCEPTION_FILE
from ldm.pretrained import efficientnet_lite, lpips
from ldm.pretrained.torchvision_ops import ensure_torchvision
from ldm.records import is_store
from ldm.training.compiled import has_compiler
from ldm.training.precision import cpu_bf16, resolve_precision

USAGE = """usage: python -m experiments.doctor [--store DIR] [KEY=VALUE ...]

What works on this machine, what does not, and what to do, for the same overrides as run.py takes
(e.g. data=folder data.path=~/photos)."""

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
LITTLE_DISK = 2 * GIB
LITTLE_MEMORY = 4 * GIB
REACH_SECONDS = 5.0
MOST_OPENED = 500
"""Images that are opened to see whether they can be used."""


class Verdict(StrEnum):
    """What a finding means for the main job."""

    WORKS = "ok"
    NOTE = "note"
    BROKEN = "broken"


STYLES: Mapping[Verdict, str] = {Verdict.WORKS: "green", Verdict.NOTE: "yellow", Verdict.BROKEN: "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` says what to do where it does not work, or could work better."""

    topic: str
    verdict: Verdict
    text: str
    remedy: str = ""


def examine_machine(values: Mapping[str, Any], store: Path) -> Iterator[Finding]:
    """Processor, memory, disk, versions, GPU and the number format that precision=auto means here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(
        "processor",
        Verdict.WORKS,
        f"{cores} cores, {torch.get_num_threads()} threads used by torch, {platform.machine()}",
    )
    yield _memory(Path("/proc/meminfo"))
    free = shutil.disk_usage(_existing(store)).free
    is_little = free < LITTLE_DISK
    yield Finding(
        "disk",
        Verdict.NOTE if is_little else Verdict.WORKS,
        f"{free / GIB:.1f} GiB free at {_existing(store)}",
        "free some, or give another folder with --store DIR" if is_little else "",
    )
    yield _versions(ROOT / "constraints.txt")
    yield _gpu()
    device = values["device"]
    units = "it computes in bf16" if resolve_precision("auto", device) == "bf16" else "it has no fast bf16"
    hardware = "this GPU" if device == "cuda" else f"this CPU ({cpu_bf16() or 'neither AMX nor AVX512-BF16'})"
    yield Finding(
        "precision",
        Verdict.WORKS,
        f"auto is {resolve_precision('auto', device)} on {hardware}: {units}; in use: {values['precision']}",
    )
    if device == "cuda":
        yield _compiler(values["compile"])


def examine_weights(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Networks with public weights; only those that the settings name are needed."""
    yield _torchvision()
    metrics = values["metrics"]
    judges = {} if is_custom(metrics) else {metrics["extractor"]: metrics["weights"]}
    judges |= {name: settings["weights"] for name, settings in other_extractors(values).items()}
    loss = filled(values["ae"].get("loss", {}), values["scale"]["ae"]["loss"])
    wanted = {*judges, loss.get("perceptual")}
    for variant in efficientnet_lite.VARIANTS:
        # Lite2 also measures the feature distance of reconstructions, whoever judges.
        is_needed = variant == "lite2" or f"efficientnet_{variant}" in wanted
        yield _weight(f"EfficientNet-{variant}", is_needed, partial(efficientnet_lite.weights_file, variant))
    yield _weight("Inception", "inception" in wanted, partial(_inception, judges.get("inception")))
    for name in EXTRACTORS:  # always in one order
        if name in judges and name != "inception" and not EXTRACTORS[name].is_packaged:
            yield _weight(f"extractor {name}", True, partial(_extractor, name, judges[name]))
    for network in lpips.TRUNKS:
        path = loss.get("perceptual_path") if f"lpips_{network}" in wanted else None
        yield _weight(f"LPIPS {network}", f"lpips_{network}" in wanted, partial(_lpips, network, path))


def examine_tracking(values: Mapping[str, Any]) -> Iterator[Finding]:
    """What shows the runs, as variables of the environment may say in place of the settings."""
    settings = values["tracker"]
    name, topic = settings["name"], "W&B" if settings["name"] == "wandb" else "tracker"
    try:
        mode, notes = mode_of(settings), check_tracking(settings, Path(values["store"]))
    except UserError as error:
        yield Finding(topic, Verdict.BROKEN, str(error), "or track nothing: tracker=none")
        return
    yield from (Finding(topic, Verdict.NOTE, note) for note in notes)
    if name != "wandb":
        yield Finding(topic, Verdict.WORKS, f"{name}: neither account nor network is needed")
        return
    place = f"runs lie under {values['store']}/wandb, `wandb sync` uploads them"
    texts = {
        "offline": f"offline: {place}; neither account nor network is needed",
        "disabled": "disabled: nothing is tracked; the store holds all results",
        "online": "online: every stage is uploaded as it runs",
    }
    yield Finding(topic, Verdict.WORKS, texts[mode])


def examine_store(store: Path) -> Iterator[Finding]:
    """Whether files can be written where the store lies or will lie, and whether claims hold there."""
    place = _existing(store)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as folder:
            trial = Store(Path(folder))
            with trial.claim("doctor", lambda: None):
                is_exclusive = trial.is_claimed("doctor") and claims.can_be_held(Path(folder))
            is_freed = not trial.is_claimed("doctor")
    except (OSError, UserError) as error:
        yield Finding(
            "store", Verdict.BROKEN, f"{place} cannot be written ({error})", "give another folder with --store DIR"
        )
        return
    if is_exclusive and is_freed:
        state = "exists" if store.exists() else "will be made"
        yield Finding("store", Verdict.WORKS, f"{store} {state}; files and claims work there")
    else:
        yield Finding(
            "store",
            Verdict.BROKEN,
            f"{place} creates a file twice that may be created once, so two processes could compute the same artifact",
            "give a folder on a local disk, or on another network disk, with --store DIR",
        )


def examine_data(values: Mapping[str, Any], store: Path) -> Iterator[Finding]:
    """The chosen images: how many, their classes, which will be skipped, and what their number allows to measure."""
    settings = settings_only(values)
    name = settings["data"]["name"]
    with tempfile.TemporaryDirectory() as folder:
        place = Store(store if is_store(store) and os.access(store, os.W_OK) else Path(folder))
        try:
            found = splits(with_scale_sizes(settings), place)
            facts = data_facts(with_scale_sizes(settings), place)
        except (UserError, OSError) as error:
            yield Finding(
                f"data={name}",
                Verdict.BROKEN,
                str(error),
                "mend it, or choose other images with data=NAME data.path=PLACE",
            )
            return
    yield Finding(f"data={name}", Verdict.WORKS, f"at {found['train'].resolution} px: {facts.sentence}")
    if name != "emoji":
        yield from (_unusable(split, source) for split, source in found.items())
    yield from _annotations(found, conditions_of(settings))
    yield from _planned(settings, facts)


def examine(values: Mapping[str, Any], store: Path) -> list[Finding]:
    """All findings, in the order in which they are said."""
    return [
        *examine_machine(values, store),
        *examine_weights(values),
        *examine_tracking(values),
        *examine_store(store),
        *examine_data(values, store),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 0 where the main job can run, 1 where it cannot, 2 for settings that cannot be composed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        say(USAGE)
        return 0
    return exit_code(lambda: _run(_with_store(given)))


def _with_store(given: Sequence[str]) -> list[str]:
    """--store DIR as the override that run.py knows."""
    for position, argument in enumerate(given):
        option, equals, place = argument.partition("=")
        if option != "--store":
            continue
        if not equals and position + 1 == len(given):
            raise UserError("--store needs a folder behind it")
        behind = position + (1 if equals else 2)
        folder = Path(place if equals else given[position + 1]).expanduser()
        return [*without([*given[:position], *given[behind:]], "store"), assigned("store", str(folder))]
    return list(given)


def _run(overrides: Sequence[str]) -> int:
    values = composed(with_scale(["doctor", *overrides])[1:])
    findings = examine(values, Path(values["store"]))
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        say(f"{finding.verdict:<7} {finding.topic:<{width}}  {finding.text}", style=STYLES[finding.verdict])
        if finding.remedy:
            say(f"{'':<7} {'':<{width}}  -> {finding.remedy}")
    broken = [finding.topic for finding in findings if finding.verdict is Verdict.BROKEN]
    noted = [finding.topic for finding in findings if finding.verdict is Verdict.NOTE]
    say("")
    if noted:
        say(f"worth knowing: {', '.join(noted)}", style="yellow")
    if broken:
        say(f"the main job cannot run here yet: {', '.join(broken)} must be mended first (see above)", style="bold red")
        return 1
    swept = [] if any(re.match(r"\+*ae\.f=", override) for override in overrides) else ["-m", "ae.f=1,4,8,16,32"]
    say(f"the main job can run: {shlex.join(['python', 'run.py', *swept, *overrides])}", style="bold green")
    return 0


def _memory(meminfo: Path) -> Finding:
    if not meminfo.exists():
        return Finding("memory", Verdict.NOTE, "its size cannot be read on this system")
    sizes = {key: int(kib) * 1024 for key, kib in re.findall(r"(\w+):\s+(\d+) kB", meminfo.read_text(encoding="utf-8"))}
    free = sizes.get("MemAvailable", 0)
    is_little = free < LITTLE_MEMORY
    text = f"{free / GIB:.1f} of {sizes.get('MemTotal', 0) / GIB:.1f} GiB free"
    remedy = "close other programs, or train with a smaller trainer.micro_batch" if is_little else ""
    return Finding("memory", Verdict.NOTE if is_little else Verdict.WORKS, text, remedy)


def _versions(constraints: Path) -> Finding:
    here = torch.__version__.partition("+")[0]
    text = f"Python {platform.python_version()}, torch {torch.__version__}"
    pinned = (
        re.search(r"^torch==(\S+)", constraints.read_text(encoding="utf-8"), re.M) if constraints.exists() else None
    )
    if pinned is None:
        return Finding(
            "versions", Verdict.NOTE, f"{text}; the list of tested versions ({constraints.name}) is not here"
        )
    if pinned.group(1) == here:
        return Finding("versions", Verdict.WORKS, f"{text}, the tested one")
    remedy = f"where something fails: pip install -c {constraints.name} -e ."
    return Finding("versions", Verdict.NOTE, f"{text}; tested is torch {pinned.group(1)}", remedy)


def _gpu() -> Finding:
    if not torch.cuda.is_available():
        built = (
            f"torch is built for CUDA {torch.version.cuda}, but finds none"
            if torch.version.cuda
            else "torch is a CPU build"
        )
        return Finding("GPU", Verdict.WORKS, f"none in use ({built}); scale=cpu is meant for this")
    sizes = [
        (torch.cuda.get_device_name(i), torch.cuda.get_device_properties(i).total_memory)
        for i in range(torch.cuda.device_count())
    ]
    return Finding("GPU", Verdict.WORKS, ", ".join(f"{name} ({size / GIB:.0f} GiB)" for name, size in sizes))


def _compiler(policy: str) -> Finding:
    """Whether denoisers can be compiled for a GPU."""
    if has_compiler() or policy == "never":
        return Finding("compiler", Verdict.WORKS, f"compile={policy}; Triton is {'' if has_compiler() else 'not '}here")
    what = "denoisers are called as they are" if policy == "auto" else f"compile={policy} cannot be done"
    return Finding(
        "compiler", Verdict.NOTE, f"torch finds no Triton, so {what}", "pip install triton, or compile=never"
    )


class _AbsentError(Exception):
    """Weights that are not on this machine: where they are offered, and what to do without internet."""

    def __init__(self, url: str, remedy: str) -> None:
        super().__init__(url)
        self.url, self.remedy = url, remedy


def _weight(topic: str, is_needed: bool, find: Callable[[], Path]) -> Finding:
    """A network's weight file; one that is missing and cannot be downloaded is broken where the settings need it."""
    try:
        path = find()
    except _AbsentError as absent:
        if not is_needed:
            return Finding(topic, Verdict.NOTE, "weights not here (not needed by these settings)", absent.remedy)
        if _is_reachable(absent.url):
            return Finding(topic, Verdict.NOTE, f"weights not here; the first run downloads them from {absent.url}")
        return Finding(topic, Verdict.BROKEN, f"weights not here, and {absent.url} cannot be reached", absent.remedy)
    except UserError as error:
        return Finding(topic, Verdict.BROKEN if is_needed else Verdict.NOTE, str(error))
    return Finding(topic, Verdict.WORKS, f"{path.name}, {path.stat().st_size / 1e6:.0f} MB")


def _is_reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_SECONDS):
            return True
    except OSError:
        return False


def _inception(weights: str | None) -> Path:
    path = Path(weights).expanduser() if weights else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        # It imports torchvision, which has been seen to by now.
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        raise _AbsentError(
            URL_INCEPTION_V3,
            f"for FID, KID and IS put {URL_INCEPTION_V3} at {path}, or give its path as metrics.weights=FILE "
            "(with internet it is downloaded); metrics.extractor=efficientnet_lite2_colour needs no download",
        )
    return path


def _extractor(name: str, given: str | None) -> Path:
    found = EXTRACTORS[name].find(Path(given).expanduser() if given else None)
    return max(found.glob("*.safetensors"), key=lambda file: file.stat().st_size) if found.is_dir() else found


def _lpips(network: str, given: str | None) -> Path:
    lpips.read_heads(network)
    path = lpips_file(network, given)
    if not path.is_file():
        url = lpips.trunk(network).url
        raise _AbsentError(
            url,
            f"put {url} at {path}, or give its path as ae.loss.perceptual_path=FILE (with internet it is downloaded); "
            "ae.loss.perceptual=efficientnet_lite0 needs no download",
        )
    return path


def _torchvision() -> Finding:
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        pass
    else:
        return Finding("torchvision", Verdict.WORKS, "imports as it is")
    try:
        ensure_torchvision()
    except Exception as error:
        return Finding(
            "torchvision",
            Verdict.BROKEN,
            f"cannot be imported ({error})",
            "install the build that belongs to this torch",
        )
    return Finding(
        "torchvision",
        Verdict.WORKS,
        "made for another build of torch; the missing operators are declared, which suffices",
    )


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    absolute = path.expanduser().absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.exists())


def _unusable(split: str, source: ImageSource) -> Finding:
    """Opens images evenly spread over the split and names those that will be skipped."""
    indices = range(0, len(source), max(1, len(source) // MOST_OPENED))
    skipped: list[UnusableImage] = []
    for index in indices:
        try:
            source.item(index)
        except UnusableImage as error:
            skipped.append(error)
    tried = "all" if len(indices) == len(source) else f"{len(indices):,}"
    if not skipped:
        return Finding(f"{split} images", Verdict.WORKS, f"{tried} were opened, all can be used")
    share, names = len(skipped) / len(indices), "; ".join(str(error) for error in skipped[:3])
    more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    text = f"{tried} were opened, {len(skipped)} will be skipped: {names}{more}"
    if share > source.max_skipped_fraction:
        return Finding(
            f"{split} images", Verdict.BROKEN, text, "remove or mend these files, or raise data.max_skipped_fraction"
        )
    return Finding(f"{split} images", Verdict.NOTE, text)


def _annotations(found: Mapping[Split, ImageSource], asked: Sequence[str]) -> Iterator[Finding]:
    """Reads each kind of annotation there is, and says which conditionings the data allows."""
    usable = set()
    for kind in found["train"].annotations:
        users = [name for name, condition in CONDITIONS.items() if condition.annotation == kind]
        try:
            names, _ = (source.annotations[kind].names for source in found.values())
        except UserError as error:
            is_asked = any(condition in asked for condition in users)
            remedy = f"mend it for conditioning={' or '.join(users)}; the images themselves can be used"
            yield Finding(WORDS[kind], Verdict.BROKEN if is_asked else Verdict.NOTE, sentence_for(error), remedy)
            continue
        usable.add(kind)
        few = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        text = f"{len(names):,} classes: {few}" if names else "read, of training and held-out images"
        yield Finding(WORDS[kind], Verdict.WORKS, text)
    classes = len(found["train"].classes)
    possible = [name for name, condition in CONDITIONS.items() if condition.can_be_given_by(classes, usable)]
    text = f"possible: none, {', '.join(possible)}"
    needs = [f"{name} needs {condition.needs}" for name, condition in CONDITIONS.items() if name not in possible]
    yield Finding("conditioning", Verdict.WORKS, "; ".join([text, *needs]))


def _planned(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Finding]:
    """Whether the settings give a plan for these images, and which metrics their number leaves out."""
    try:
        plan = make_plan(settings, facts, STAGES)
    except UserError as error:
        yield Finding("plan", Verdict.BROKEN, sentence_for(error))
        return
    for note in plan.notes:
        yield Finding("plan", Verdict.NOTE, note)
    yield _metrics(plan, facts)


def _metrics(plan: Plan, facts: DataFacts) -> Finding:
    metrics = plan.config["metrics"]
    reference = facts.heldout_images if metrics["reference"] == "heldout" else facts.train_images
    lost = left_out_by_number(metrics, facts)
    text = f"{metrics['n_samples']:,} samples against {reference:,} {metrics['reference']} images"
    if not lost:
        return Finding("metrics", Verdict.WORKS, f"{text}: all can be given")
    remedy = (
        "raise metrics.n_samples, give more images, or hold out more of them (data.heldout_fraction, where no folder "
        "gives a split); the rest is measured all the same"
    )
    return Finding("metrics", Verdict.NOTE, f"{text}: left out will be {', '.join(lost)}", remedy)
