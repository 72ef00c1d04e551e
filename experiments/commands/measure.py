"""How far a set of images is from a reference set, by every metric of distributions, without a study around it."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from experiments import build, published
from experiments.cli import exit_code
from experiments.console import reporting, say
from experiments.image_sets import ImageSet, StoredSet, features_in, open_set
from experiments.scoring import FEATURE_BATCH, MOST_REFERENCE_IMAGES, chosen
from experiments.stages.reconstruction import BATCH, reconstructed
from ldm.errors import UserError
from ldm.metrics.distribution import generation_metrics
from ldm.metrics.extractors import EXTRACTORS
from ldm.metrics.features import EXTRACTOR_TITLES, Extractor, Features
from ldm.metrics.intervals import Interval, difference
from ldm.metrics.perceptual import perceptual_distances
from ldm.metrics.reconstructed import Reconstructed
from ldm.metrics.reconstruction import reconstruction_metrics
from ldm.metrics.values import MetricValue
from ldm.records import AT_N, LeftOut, Protocol, write_json

DEFAULT_EXTRACTOR = "efficientnet_lite2_colour"
REFERENCE_IMAGES = (1,)
"""Which of an estimate's deviations are those of the reference images."""

NO_MARK = "–"
WIDE = 160
"""Columns of the table where it goes to a file."""

EXAMPLES = """
SAMPLES and REFERENCE are each a folder or zip archive of images, an .npz with the array arr_0 (or an .npy) of uint8
images (n, height, width, 3), or an artifact of a store: STORE/samples/ID, STORE/reference/ID. A whole store stands for
its reference images.

examples:
  python -m experiments.measure samples/ ~/photos --resolution 64
  python -m experiments.measure samples.npz VIRTUAL_imagenet256_labeled.npz --extractor inception
  python -m experiments.measure a/ store --against b/          # which of two sets of samples is nearer?
  python -m experiments.measure ~/photos --resolution 256 --autoencoder vae.safetensors    # reconstructions
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 with one sentence where the user can mend it."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _measure(options))


def _parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="python -m experiments.measure",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("samples", type=Path, metavar="SAMPLES", help="the images to be measured")
    command.add_argument("reference", type=Path, nargs="?", metavar="REFERENCE", help="the images to compare them with")
    command.add_argument(
        "--autoencoder",
        metavar="PATH",
        help="measure reconstructions of SAMPLES by these weights, of any form that ae=pretrained reads",
    )
    command.add_argument("--against", type=Path, metavar="OTHER", help="a second set of samples: which is nearer?")
    command.add_argument(
        "--extractor",
        choices=list(EXTRACTORS),
        help=f"network that sees the images (default: that of the store, else {DEFAULT_EXTRACTOR})",
    )
    command.add_argument("--weights", metavar="PATH", help="its weights, as metrics.weights takes them")
    command.add_argument(
        "--resolution",
        type=_positive,
        metavar="PX",
        help="side to which files are cut and resized, as data=folder does (default: that of the reference, if it has "
        "one, else of the samples)",
    )
    command.add_argument("--n", type=_positive, metavar="N", help="use so many samples of each set (default: all)")
    command.add_argument("--seed", type=int, help="of what is random in a metric (default: that of the store, else 0)")
    command.add_argument("--batch", type=_positive, metavar="N", help="images at a time")
    command.add_argument("--device", default="auto", help="auto | cpu | cuda")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write values and protocol as JSON")
    return command


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return value


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A set in the eyes of the extractor."""

    title: str
    features: Features
    hashed: str


@dataclasses.dataclass(frozen=True)
class _Result:
    values: Mapping[str, MetricValue]
    left_out: Sequence[LeftOut]
    protocol: Protocol


def print_table(table: Table) -> None:
    """A table as wide as the terminal, or `WIDE` where it goes to a file."""
    console = Console()
    (console if console.is_terminal else Console(width=WIDE)).print(table)


def _measure(options: argparse.Namespace) -> int:
    device = build.resolve_device(options.device)
    build.prepare_device(device)
    if (options.autoencoder is None) == (options.reference is None):
        raise UserError("give REFERENCE, the images to compare with, or --autoencoder PATH, to measure reconstructions")
    if options.autoencoder is not None:
        return _measure_autoencoder(options, device)
    reference = open_set(options.reference, options.extractor)
    paths = [options.samples, *([options.against] if options.against else [])]
    samples = [open_set(path, options.extractor) for path in paths]
    stored = reference if isinstance(reference, StoredSet) else None
    settings = _extractor_settings(options, [reference, *samples])
    side = _side(options.resolution, reference, samples)
    extractor = build.extractor(settings, device)
    batch = options.batch or (stored.record.environment["config"]["samples"]["batch"] if stored else FEATURE_BATCH)
    seed = options.seed if options.seed is not None else stored.record.config["seed"] if stored else 0
    n = min([options.n or sys.maxsize, *map(_count, samples)]) if options.n or options.against else None
    seen = _of_equal_n([_seen(one, n, side, extractor, batch, seed, "samples") for one in samples], seed)
    of_reference = _seen(
        reference, MOST_REFERENCE_IMAGES, side, extractor, options.batch or FEATURE_BATCH, seed, "reference"
    )
    results = [_result(one, of_reference, extractor, side, seed) for one in seen]
    _show(results, seen)
    if options.json:
        write_json(options.json, _as_json(results, seen))
        say(f"{options.json}: values and protocols")
    return 0


@torch.inference_mode()
def _measure_autoencoder(options: argparse.Namespace, device: str) -> int:
    """Distortion of all images, or of n of them, by given weights; the numbers of the stage `reconstruction`."""
    images = open_set(options.samples, options.extractor)
    if not isinstance(images, ImageSet):
        raise UserError(f"{images.path} holds features and no images: give the images themselves")
    side = options.resolution or images.side
    if side is None:
        raise UserError(f"{images.path} holds images of several sizes: give --resolution PX to cut and resize them")
    loaded = published.first_stage_at(options.autoencoder).first_stage
    assert loaded is not None  # or it would have been refused
    if side % loaded.factor:
        raise UserError(f"images of {side} px do not fit a first stage of f = {loaded.factor}: give --resolution PX")
    model = loaded.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    extractor = build.extractor(_extractor_settings(options, ()), device)
    seed = options.seed or 0
    indices = chosen(images.n, options.n or images.n, seed, "reconstruction")
    compared = Reconstructed(perceptual_distances(None), extractor)
    with reporting(f"reconstruction {images.path.name}", len(indices)) as reporter:
        for position, part in enumerate(images.batches(indices, side, options.batch or BATCH), start=1):
            compared.add(part, reconstructed(model, part, device)[1])
            reporter.advance_to(min(position * (options.batch or BATCH), len(indices)))
    values, left_out = reconstruction_metrics(compared.errors, compared.distances)
    frechet = compared.frechet(seed)
    if isinstance(frechet, LeftOut):
        left_out.append(frechet)
    else:
        values.append(frechet)
    title = f"{model.regulariser} f={model.factor}, {model.channels} channels"
    table = Table(box=None, pad_edge=False)
    for heading in ("metric", f"{title} \\[95 %]", "n"):
        table.add_column(heading, no_wrap=True)
    for value in values:
        table.add_row(_titled(value), _text(value.value, _interval(value)), f"{value.n:,}")
    print_table(table)
    for item in left_out:
        say(f"left out: {item.metric}. {item.reason}")
    say(f"{len(indices):,} images of {side} px ({images.path}, content {images.hashed[:8]}), seed {seed}")
    if options.json:
        rows = [dataclasses.asdict(value.row()) for value in values]
        left = [dataclasses.asdict(item) for item in left_out]
        write_json(
            options.json, [{"samples": str(images.path), "samples_hash": images.hashed, "rows": rows, "left_out": left}]
        )
        say(f"{options.json}: values")
    return 0


def _titled(value: MetricValue) -> str:
    return f"{value.of.title}, {value.of.unit}" if value.of.unit else value.of.title


def _count(images: ImageSet | StoredSet) -> int:
    return images.n if isinstance(images, ImageSet) else len(images.features)


def _extractor_settings(options: argparse.Namespace, sets: Sequence[ImageSet | StoredSet]) -> dict[str, Any]:
    """Those of the stored features where there are some, which have to agree with what was asked for."""
    stored = [one for one in sets if isinstance(one, StoredSet)]
    asked = {"name": options.extractor or DEFAULT_EXTRACTOR, "weights": options.weights, "precision": "fp32"}
    if not stored:
        return asked
    first = dict(stored[0].extractor)
    for one in stored:
        if options.extractor not in (None, one.extractor["name"]) or dict(one.extractor) != first:
            raise UserError(
                f"{one.path} holds features of {one.extractor['name']} and no images, so it cannot be measured by "
                f"{options.extractor or first['name']}; give its images (samples.keep=images saves those of samples)"
            )
    return first if options.weights is None else {**first, "weights": options.weights}


def _side(asked: int | None, reference: ImageSet | StoredSet, samples: Sequence[ImageSet | StoredSet]) -> int:
    """The side at which all images are compared. Raises: UserError where nothing tells it, or sets do not agree."""
    if isinstance(reference, StoredSet) and asked not in (None, reference.side):
        raise UserError(
            f"--resolution {asked}, but the reference images of {reference.path} were seen at {reference.side} px"
        )
    sides = [one.side for one in (reference, *samples)]
    side = asked or next((one for one in sides if one is not None), None)
    if side is None:
        raise UserError(
            f"{reference.path} and {samples[0].path} hold images of several sizes: give the side at which they are "
            "compared, e.g. --resolution 64 (files are cut to the central square and resized)"
        )
    for one, own in zip(samples, sides[1:], strict=True):
        if own != side and asked is None:
            has = "images of several sizes" if own is None else f"images of {own} px"
            raise UserError(
                f"{one.path} holds {has}, the reference {side} px: metrics would measure the difference in size; give "
                f"--resolution PX to cut and resize both, or samples of {side} px"
            )
    return side


def _seen(
    images: ImageSet | StoredSet, most: int | None, side: int, extractor: Extractor, batch: int, seed: int, purpose: str
) -> _Seen:
    indices = chosen(_count(images), most or _count(images), seed, purpose)
    if isinstance(images, StoredSet):
        features = images.features if len(indices) == _count(images) else images.features[np.array(indices)]
    else:
        features = features_in(images, indices, side, extractor, batch)
    return _Seen(str(images.path), features, images.hashed)


def _of_equal_n(seen: Sequence[_Seen], seed: int) -> list[_Seen]:
    """The sets with as many images as the smallest has that could be used: values at another n are not compared."""
    n = min(len(one.features) for one in seen)
    for one in seen:
        if len(one.features) > n:
            say(f"{one.title}: {n:,} of {len(one.features):,} images are compared, as many as the other set has usable")
    kept = [np.array(chosen(len(one.features), n, seed, "samples")) for one in seen]
    return [
        dataclasses.replace(one, features=one.features[own]) if len(own) < len(one.features) else one
        for one, own in zip(seen, kept, strict=True)
    ]


def _result(samples: _Seen, reference: _Seen, extractor: Extractor, side: int, seed: int) -> _Result:
    values, left_out = generation_metrics(
        samples.features, reference.features, extractor.name, seed, range(len(samples.features))
    )
    protocol = Protocol(
        kind="generation",
        n_samples=len(samples.features),
        reference=reference.title,
        reference_hash=reference.hashed,
        n_reference=len(reference.features),
        resolution=side,
        resize=extractor.resize,
        extractor=extractor.name,
        extractor_size=extractor.size,
        extractor_weights=extractor.weights_hash,
        extractor_precision=extractor.precision,
        class_balance="as given",
        evaluation_seed=seed,
    )
    return _Result({value.metric: value for value in values}, left_out, protocol)


def _interval(value: MetricValue) -> Interval | None:
    if value.ci_low is None or value.ci_high is None:
        return None
    return Interval(value.value, value.ci_low, value.ci_high, value.deviations, value.alone)


def distinguished(value: MetricValue) -> str:
    """Whether a distance without bias tells the samples from the reference images; "" for what cannot tell."""
    found = _interval(value)
    if value.of.headline_from != 0 or value.of.higher_is_better is not False or found is None:
        return ""
    return "differs from the reference" if found.low > 0 else "not distinguishable from the reference"


def nearer(a: MetricValue, b: MetricValue) -> tuple[Interval | None, str]:
    """The difference a - b of two sets against the same reference images, and which is better.

    Values that are biased by n are compared at equal n alone, which the command sees to.
    """
    one, other = _interval(a), _interval(b)
    if one is None or other is None:
        return None, "no interval, so no verdict"
    found = difference(one, other, REFERENCE_IMAGES)
    if found.low <= 0 <= found.high:
        return found, "not distinguishable"
    return found, "better" if (found.value > 0) == a.of.higher_is_better else "worse"


def _show(results: Sequence[_Result], seen: Sequence[_Seen]) -> None:
    names = [Path(one.title).name for one in seen]
    table = Table(box=None, pad_edge=False)
    headings = ["metric", *(f"{name} \\[95 %]" for name in names)]
    for heading in (*headings, *(["difference \\[95 %]"] if len(results) > 1 else [])):
        table.add_column(heading, no_wrap=True)
    table.add_column(f"verdict on {names[0]}" if len(results) > 1 else "verdict")
    network = EXTRACTOR_TITLES.get(results[0].protocol.extractor, results[0].protocol.extractor)
    for name, value in results[0].values.items():
        found = [result.values.get(name) for result in results]
        line = [value.of.title.removesuffix(f", {network}")]
        line += [NO_MARK if one is None else _text(one.value, _interval(one)) for one in found]
        if len(results) == 1:
            table.add_row(*line, distinguished(value))
        elif found[1] is not None:
            apart, verdict = nearer(value, found[1])
            table.add_row(*line, NO_MARK if apart is None else _text(apart.value, apart), verdict)
    print_table(table)
    for left in results[0].left_out:
        say(f"left out: {left.metric}. {left.reason}")
    for protocol in {result.protocol.id: result.protocol for result in results}.values():
        say(
            f"protocol {protocol.id}: {protocol.n_samples:,} samples against {protocol.n_reference:,} reference images "
            f"({protocol.reference}, content {protocol.reference_hash[:8]}) of {protocol.resolution} px, seen by "
            f"{network} (weights {protocol.extractor_weights[:8]}, {protocol.extractor_size} px, {protocol.resize}, "
            f"{protocol.extractor_precision}); seed {protocol.evaluation_seed}"
        )
    if any(value.of.estimand == AT_N for value in results[0].values.values()):
        say("Values at another n, extractor or resolution are not comparable with these (docs/numbers.md).")


def _text(value: float, interval: Interval | None) -> str:
    if interval is None:
        return f"{value:.4g}"
    return f"{value:.4g} [{interval.low:.4g}, {interval.high:.4g}]"


def _as_json(results: Sequence[_Result], seen: Sequence[_Seen]) -> list[dict[str, Any]]:
    return [
        {
            "samples": one.title,
            "samples_hash": one.hashed,
            "protocol": {"id": result.protocol.id, **dataclasses.asdict(result.protocol)},
            "rows": [dataclasses.asdict(value.row(result.protocol.id)) for value in result.values.values()],
            "left_out": [dataclasses.asdict(item) for item in result.left_out],
        }
        for one, result in zip(seen, results, strict=True)
    ]
