"""A store of made-up results from smooth formulas, for tests and for looking at figures: `synthetic_store.py DIR`."""

import dataclasses
import itertools
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis.older_stores import STAGES
from ldm.records import (
    MEMORISATION,
    Cell,
    Cost,
    LeftOut,
    Protocol,
    ResultRow,
    StageRecord,
    StageShape,
    Sweep,
    content_hash,
    write_json,
)

JUDGE = "efficientnet_lite2"
CHANNELS = {1: 3, 2: 2, 4: 3, 8: 4, 16: 8, 32: 16}

GENERATION = Protocol(
    kind="generation",
    n_samples=512,
    reference="heldout",
    reference_hash="made-up",
    n_reference=512,
    resolution=32,
    resize="antialiased bilinear",
    extractor=JUDGE,
    extractor_size=112,
    extractor_weights="made-up",
    extractor_precision="float32",
    class_balance="as held-out",
    evaluation_seed=0,
)


SHAPES = {**STAGES, "rate_curve": StageShape(STAGES["coding"].axes, ("first_stage",), is_result=False)}
"""Stages of the made-up sweeps."""


@dataclass(frozen=True)
class Recipe:
    """The grid to make up, and what to leave out of it."""

    regularisers: Sequence[str] = ("kl", "vq")
    factors: Sequence[int] = (1, 2, 4, 8, 16, 32)
    steps: Sequence[int] = (5, 10, 20, 50)
    seeds: Sequence[int] = (0,)
    ae_seeds: Sequence[int] = (0,)
    kl_weights: Sequence[float | None] = (None,)  # None: not named on the command line
    guidance: Sequence[float] = (1.0,)
    samplers: Sequence[str] = ("ddim",)
    n: int = 512
    kernel_offset: float = 0.0
    scatter: float = 0.0  # standard deviation of the kernel distance over training seeds
    on_request: bool = False
    missing: Sequence[tuple[str, str, int, int]] = ()  # (stage, regulariser, f, steps), no record at all
    failed: Sequence[tuple[str, str, int, int]] = ()
    odd_protocol: Sequence[tuple[str, int]] = ()  # (regulariser, f) measured on other images
    name: str = "2026-01-01_synthetic"
    created: str = "2026-01-01T00:00:00"
    data: str = "emoji"
    resolution: int = 32
    reference: str = "heldout"
    extractors: Sequence[str] = field(default_factory=lambda: (JUDGE,))
    conditioning: str = "class"
    task: str | None = None
    still_gains: float = 0.02
    """By how much of its end's value a distance falls in the last doubling of the images seen."""
    also: Mapping[str, Mapping[tuple[str, int], float]] = field(default_factory=dict)
    """Kernel distances by extractors beside the cells' own, by regulariser and f."""
    gaussian: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """Kernel distances of a Gaussian of the latents and of one of each class, by f."""
    budget: str = "images"  # or flops: every training costs as much as that of f = 4
    nearer: float | None = None
    """Probability that a sample lies nearer to a training image than a held-out image does."""
    scale: str = "cpu"
    is_declared: bool = True  # whether rows say what their metrics mean, as those of schema 1 do not


@dataclass(frozen=True)
class FirstStage:
    """A made-up autoencoder."""

    regulariser: str
    f: int
    kl_weight: float | None = None
    seed: int = 0


def kernel_distance(
    regulariser: str, f: int, steps: int, guidance: float = 1.0, share: float = 1.0, still_gains: float = 0.02
) -> float:
    """A made-up bowl over log2 f with a minimum at f = 4 to 8, falling with steps and with training."""
    bowl = 0.012 + 0.006 * (math.log2(f) - 2.4) ** 2
    family = 1.15 if regulariser == "vq" else 1.0
    return bowl * family * (1 + 6 / steps) * (1 + still_gains * (1 / share - 1)) * (1 + 0.1 * abs(guidance - 2))


def network_calls(sampler: str, steps: int) -> int:
    """Calls an image: two a step of Heun but in its last, else one."""
    return 2 * steps - 1 if sampler == "heun" else steps


def frechet_distance(*cell: Any, **training: float) -> float:
    """A made-up Frechet distance that follows the kernel distance."""
    return 40 + 900 * kernel_distance(*cell, **training)


def images_trained(recipe: Recipe, f: int) -> int:
    """Images that a made-up training at f sees under the recipe's budget."""
    return 48_000 if recipe.budget == "images" else round(48_000 * (f / 4) ** 1.5)


def milestones(recipe: Recipe, f: int) -> list[int]:
    """Images seen at milestones: halvings of the training at f and, as far as it has none near, of that at f = 1."""
    if recipe.budget == "images":
        return [3_000, 6_000, 12_000, 24_000, 48_000]
    own, shared = ([round(images_trained(recipe, each) / 2**k) for k in range(6)] for each in (f, 1))
    return sorted({*own, *(n for n in shared if all(abs(n - m) > 0.1 * m for m in own))})


def distortion(regulariser: str, f: int) -> float:
    """A made-up root mean square error on 0 to 255."""
    return 0.0 if f == 1 else 4.5 * math.log2(f) ** 1.1 * (1.12 if regulariser == "vq" else 1.0)


def psnr(rmse: float) -> float:
    """Peak signal-to-noise ratio in decibels of an error on 0 to 255."""
    return 20 * math.log10(255 / rmse)


def curve_point(width: float, bits: float, rmse: float) -> dict[str, float]:
    """A made-up point of a curve over widths, that of training at 1: bits fall with the width, the error rises."""
    point = {"width": width, "n": 100}
    for prefix, more in (("", 0.0), ("coded_", 0.05)):
        error = rmse * (1.05 + 0.1 * (width - 1)) + more
        size = bits * (1 - 0.1 * math.log2(width)) + more
        point |= {f"{prefix}bits_per_pixel": size, f"{prefix}rmse255": error, f"{prefix}psnr": psnr(error)}
    return point


def rate(regulariser: str, f: int, kl_weight: float | None = None, ae_seed: int = 0) -> float:
    """A made-up rate in bits per pixel: less of a heavier weight, a bit more of each later seed."""
    shrunk = 1.0 if kl_weight is None else kl_weight**-0.1
    return shrunk * (1 + 0.1 * ae_seed) * CHANNELS[f] * (4.2 if regulariser == "kl" else 3.4) / f**2


def decoded_kernel_distance(regulariser: str, f: int, kl_weight: float | None = None, ae_seed: int = 0) -> float:
    """A made-up floor: it grows with the distortion, and as the rate falls."""
    loss = distortion(regulariser, f)
    return 0.0008 + 0.0007 * loss * rate(regulariser, f) / rate(regulariser, f, kl_weight, ae_seed)


def _row(
    metric: str, value: float, n: int, spread: float, protocol: str, seen: int | None = None, seed: int | None = None
):
    return ResultRow(metric, value, n, protocol, value - spread, value + spread, seen, seed)


def declared(row: ResultRow) -> ResultRow:
    """The row with all that its metric says of itself, where it does not say it yet."""
    if row.group:
        return row
    from every_metric import every_metric

    from ldm.metrics.values import MetricValue

    said = MetricValue(every_metric()[row.metric], row.value, row.n).row()
    names = ("title", "unit", "higher_is_better", "group", "kind", "base", "variant", "headline_from")
    return replace(row, **{name: getattr(said, name) for name in names})


class _Writer:
    def __init__(self, store: Path, recipe: Recipe) -> None:
        self.store, self.recipe = store, recipe
        self.open: set[str] = set()

    def write(
        self,
        stage: str,
        key: tuple[Any, ...],
        make: Callable[[str], StageRecord],
        place: tuple[str, int, int],
        parents: Sequence[str] = (),
    ) -> str:
        identity = content_hash([stage, self.recipe.data, *key])
        folder = self.store / stage / identity
        if (stage, *place) in self.recipe.failed:
            error = {"error": f"made-up failure of {stage}", "traceback": "", "command": "run"}
            write_json(folder / "failure.json", error)
            self.open.add(identity)
        elif (stage, *place) in self.recipe.missing or self.open & set(parents):
            self.open.add(identity)
        elif identity not in self.open:
            record = make(identity)
            if self.recipe.is_declared:
                record = replace(record, rows=tuple(map(declared, record.rows)))
            write_json(folder / "record.json", record.to_json())
        return identity


def build(store: Path, recipe: Recipe = Recipe()) -> Sweep:
    """Writes the store and returns its sweep."""
    writer = _Writer(store, recipe)
    cells = []
    names = [(r if f > 1 else "identity", f) for r in recipe.regularisers for f in recipe.factors]
    for extractor in recipe.extractors:
        for regulariser, f in dict.fromkeys(names):
            for kl_weight, ae_seed in itertools.product(recipe.kl_weights, recipe.ae_seeds):
                first = FirstStage(regulariser, f, kl_weight if regulariser == "kl" else None, ae_seed)
                for axes in itertools.product(recipe.seeds, recipe.guidance, recipe.samplers, recipe.steps):
                    cells.append(_cell(writer, first, *axes, extractor))
    latents = SHAPES["latents"]
    shape = StageShape(("extractor", *latents.axes), ("first_stage", "latents", "reference"), True)
    stages = {**SHAPES, "gaussian": shape} if recipe.gaussian else SHAPES
    sweep = Sweep(recipe.name, recipe.created, "python run.py -m ae=kl,vq # made-up", tuple(cells), stages=stages)
    write_json(store / "sweeps" / f"{recipe.name}.json", sweep.to_json())
    return sweep


def _cell(
    w: _Writer, trained: FirstStage, seed: int, guidance: float, sampler: str, steps: int, extractor: str
) -> Cell:
    recipe, regulariser, f = w.recipe, trained.regulariser, trained.f
    made_by = dataclasses.astuple(trained)
    protocol = replace(
        GENERATION,
        n_samples=recipe.n,
        n_reference=recipe.n,
        extractor=extractor,
        reference=recipe.reference,
        resolution=recipe.resolution,
    )
    if (regulariser, f) in recipe.odd_protocol:
        protocol = replace(protocol, reference_hash="other-images")
    protocols = {protocol.id: asdict(protocol)}
    short = replace(protocol, n_samples=recipe.n // 2)
    # The standard weights alone have standard names.
    fd, kd = ("fid", "kid") if extractor == "inception" else (f"fd_{extractor}", f"kd_{extractor}")
    at = protocol.id
    n, off = recipe.n, recipe.kernel_offset
    measured = "held-out" if recipe.reference == "train" else "training"
    floor = replace(protocol, class_balance=f"as in the {measured} images")
    protocols[floor.id] = asdict(floor)
    pair = replace(protocol, kind="pair", reference="the heldout images behind the conditions")
    protocols[pair.id] = asdict(pair)
    place = (regulariser, f, steps)
    common = {"config": {}, "created": recipe.created}

    def reference(identity: str) -> StageRecord:
        lossy = [
            {"codec": codec, "quality": q, "bits_per_pixel": b, "rmse255": e, "psnr": psnr(e), "ssim": None, "n": n}
            for codec, gain in (("jpeg", 1.0), ("webp", 0.7))
            for q in (5, 10, 20, 40, 60, 80, 95)
            for b in [gain * (0.9 + 0.02 * q + 2.5 * (q / 100) ** 4)]
            for e in [30 * math.exp(-0.022 * q) * gain**0.2]
        ]
        lossless = [
            {"codec": codec, "quality": None, "bits_per_pixel": b, "rmse255": 0.0, "psnr": None, "n": n}
            for codec, b in (("png", 14.1), ("webp_lossless", 10.3))
        ]
        rows = (
            _row(f"real_{fd}", 38.0, n, 1.0, floor.id),
            _row(f"real_{kd}", 0.0008 + off, n, 0.0009, floor.id),
        )
        facts = {"codecs": lossy + lossless}
        return StageRecord("reference", identity, parents={}, facts=facts, rows=rows, protocols=protocols, **common)

    def first_stage(identity: str) -> StageRecord:
        facts = {"f": f, "parameters": {"encoder": 0 if f == 1 else 700_000, "decoder": 0 if f == 1 else 900_000}}
        cost = Cost(0.0 if f == 1 else 60.0 + f, 40_000, 0.0 if f == 1 else 2.4e14, 300 * 2**20)
        return StageRecord("first_stage", identity, parents={}, facts=facts, cost=cost, **common)

    def reconstruction(identity: str) -> StageRecord:
        rmse, r = distortion(regulariser, f), rate(*made_by)
        rows = [
            _row(f"r{fd}", 3.0 + 1.4 * rmse, n, 0.8, at),
            _row("rmse255", rmse, n, 0.03 * rmse, at),
            _row(f"decoded_{fd}", 38.0 + 1.4 * rmse, n, 1.0, floor.id),
            _row(f"decoded_{kd}", decoded_kernel_distance(*made_by) + off, n, 0.0009, floor.id),
        ]
        if f > 1:
            rows.append(_row("psnr", psnr(rmse), n, 0.3, at))
        if regulariser == "kl":
            rows += [
                _row("rmse255_sample", 1.05 * rmse, n, 0.03 * rmse, at),
                _row("psnr_sample", psnr(1.05 * rmse), n, 0.3, at),
                _row("rate_kl_prior", 1.25 * r, n, 0.05 * r, at),
                _row("rate_kl_fitted", r, n, 0.05 * r, at),
            ]
        elif regulariser in ("vq", "fsq"):
            rows += [
                _row("rate_index_log2", 1.2 * r, n, 0.0, at),
                _row("rate_index_crossentropy", r, n, 0.02 * r, at),
            ]
        else:
            rows += [_row("rate_raw", 24.0, n, 0.0, at), _row("rate_lossless", 10.3, n, 0.3, at)]
        left_out = (LeftOut("lpips", "its weights are made up"),)
        return StageRecord(
            "reconstruction", identity, parents={}, rows=tuple(rows), left_out=left_out, protocols=protocols, **common
        )

    def latents(identity: str) -> StageRecord:
        return StageRecord("latents", identity, parents={}, cost=Cost(4.0, 4000, 1e12 if f > 1 else 0.0), **common)

    def gaussian(identity: str) -> StageRecord:
        names = (f"gaussian_{kd}", f"gaussian_class_{kd}")
        rows = tuple(_row(name, value, n, 0.0015, at) for name, value in zip(names, recipe.gaussian[f], strict=True))
        return StageRecord("gaussian", identity, parents={}, rows=rows, protocols=protocols, **common)

    def diffusion(identity: str) -> StageRecord:
        facts = {
            "parameters": {"denoiser": 3_000_000, "conditioning": 10_000},
            "images_seen": images_trained(recipe, f),
        }
        seen = images_trained(recipe, f)
        cost = Cost(20 + 400 / f, seen, 1.2e15 / f**1.5 * seen / 48_000, (200 + 800 // f) * 2**20)
        return StageRecord("diffusion", identity, parents={}, facts=facts, cost=cost, **common)

    def progress(identity: str) -> StageRecord:
        rows = [
            _row(metric, value + extra, n // 2, spread, short.id, seen, seed)
            for seen in milestones(recipe, f)
            for metric, value, extra, spread in (
                (
                    fd,
                    frechet_distance(regulariser, f, 10, share=seen / 48_000, still_gains=recipe.still_gains),
                    0.0,
                    2.0,
                ),
                (
                    kd,
                    kernel_distance(regulariser, f, 10, share=seen / 48_000, still_gains=recipe.still_gains),
                    off,
                    0.002,
                ),
            )
        ]
        return StageRecord(
            "progress", identity, parents={}, rows=tuple(rows), protocols={short.id: asdict(short)}, **common
        )

    def coding(identity: str) -> StageRecord:
        r, rmse = rate(regulariser, f), distortion(regulariser, f)
        steps = [{"step": s, "bits_per_pixel": r / s, "rmse255": rmse + s, "psnr": psnr(rmse + s)} for s in (0.5, 1.0)]
        facts = {"quantised": [{**steps[0], "step": None}, *steps]} if regulariser == "kl" else {}
        rows = (_row("coded_latent" if regulariser == "kl" else "coded_index", 1.02 * r, n, 0.0, at),)
        return StageRecord("coding", identity, parents={}, facts=facts, rows=rows, protocols=protocols, **common)

    def rate_curve(identity: str) -> StageRecord:
        points = [curve_point(width, rate(regulariser, f), distortion(regulariser, f)) for width in (0.5, 1, 2, 4, 64)]
        return StageRecord("rate_curve", identity, parents={}, facts={"rate_curve": points}, **common)

    coder = replace(GENERATION, kind="likelihood", n_samples=100, n_reference=100, extractor="none")

    def likelihood(identity: str) -> StageRecord:
        rates = [0.00002, 0.0003, 0.01, 0.1, 0.5, 1.8 / f**0.5]
        errors = [60 * math.exp(-b) + distortion(regulariser, f) for b in rates]
        name = "vlb_bits_per_dim" if f == 1 else "latent_density_nats_per_dim"
        rows = (
            _row("progressive_bits_per_dim", rates[-1], 100, 0.02, coder.id, 48_000),
            _row("progressive_rmse255", errors[-1], 100, 0.3, coder.id, 48_000),
            _row(name, 3.7, 100, 0.05, coder.id, 48_000),
        )
        ends = {"rmse255_low": [e - 0.3 for e in errors], "rmse255_high": [e + 0.3 for e in errors]}
        curve = {"t": [1, 0.8, 0.6, 0.4, 0.2, 0.001], "bits_per_dim": rates, "rmse255": errors, **ends, "n": 100}
        facts = {"progressive": curve}
        return StageRecord(
            "likelihood", identity, parents={}, facts=facts, rows=rows, protocols={coder.id: asdict(coder)}, **common
        )

    judge = replace(GENERATION, kind="class probe", n_samples=recipe.n, n_reference=recipe.n, extractor="probe_class")
    judged = {judge.id: asdict(judge)}

    def probe(identity: str) -> StageRecord:
        rows = (
            _row("real_class_accuracy", 0.82, n, 0.03, judge.id),
            _row("real_shuffled_class_accuracy", 0.11, n, 0.03, judge.id),
        )
        return StageRecord("probe", identity, parents={}, rows=rows, protocols=judged, **common)

    def samples(identity: str) -> StageRecord:
        seconds = n * (0.002 * steps / f**1.2 + 0.0005 * (f > 1))
        cost = Cost(
            seconds, n, n * (4e8 * steps / f**1.5), 150 * 2**20, {"denoise": 0.9 * seconds, "decode": 0.1 * seconds}
        )
        return StageRecord(
            "samples", identity, parents={}, facts={"nfe": network_calls(sampler, steps)}, cost=cost, **common
        )

    def evaluation(identity: str) -> StageRecord:
        wobble = 1 + 0.05 * seed
        luck = recipe.scatter * random.Random(f"{regulariser} {f} {seed}").gauss(0, 1)
        rows = (
            _row(fd, wobble * frechet_distance(regulariser, f, steps, guidance), n, 2.5, at, 48_000, seed),
            _row(
                kd, wobble * kernel_distance(regulariser, f, steps, guidance) + off + luck, n, 0.0015, at, 48_000, seed
            ),
            _row(f"precision_{extractor}", 0.7 - 0.02 * math.log2(f), n, 0.02, at, 48_000, seed),
            _row(f"recall_{extractor}", 0.5 - 0.03 * math.log2(f), n, 0.02, at, 48_000, seed),
            _row("class_accuracy", 0.7 - 0.03 * math.log2(f), n, 0.03, judge.id, 48_000, seed),
            _row("shuffled_class_accuracy", 0.12, n, 0.03, judge.id, 48_000, seed),
        )
        beside = {name: replace(protocol, extractor=name) for name in recipe.also}
        rows += tuple(
            _row(f"kd_{name}", values[regulariser, f] + luck, n, 0.0015, beside[name].id, 48_000, seed)
            for name, values in recipe.also.items()
            if (regulariser, f) in values
        )
        if recipe.conditioning == "superres":
            rows += (_row("superres_psnr", 24.0, n, 0.3, pair.id), _row("superres_ssim", 0.7, n, 0.01, pair.id))
        elif recipe.conditioning == "inpaint":
            rows += tuple(
                _row(f"inpaint_{metric}{band}", value + extra, n, spread, pair.id)
                for band, extra in (("", 0.0), ("_mask40_60", 0.1))
                for metric, value, spread in ((fd, 2.0, 0.1), ("lpips_alex", 0.14, 0.01))
            )
        measured_by = protocols | judged | {one.id: asdict(one) for one in beside.values()}
        return StageRecord("evaluation", identity, parents={}, rows=rows, protocols=measured_by, **common)

    def memorisation(identity: str) -> StageRecord:
        row = _row(f"nearer_train_{extractor}", recipe.nearer, n, 0.03, at, 48_000, seed)
        rows = (replace(row, kind="nearer_train", group=MEMORISATION, title="P(nearer)"),)
        return StageRecord("memorisation", identity, parents={}, rows=rows, protocols=protocols, **common)

    name = f"{regulariser}-f{f}-steps{steps}-{sampler}-guidance{guidance:g}-{extractor}"
    name += "".join(f"-{value}" for value in made_by[2:] if value)
    stages: dict[str, str] = {}
    for stage, key, make, parents in (
        ("reference", (at,), reference, ()),
        ("first_stage", made_by, first_stage, ()),
        ("reconstruction", (*made_by, at), reconstruction, ("reference", "first_stage")),
        *([("coding", made_by, coding, ("first_stage",))] if recipe.on_request and f > 1 else []),
        *(
            [("rate_curve", made_by, rate_curve, ("first_stage",))]
            if recipe.on_request and f > 1 and regulariser == "kl"
            else []
        ),
        ("latents", made_by, latents, ("first_stage",)),
        *([("gaussian", (*made_by, at), gaussian, ("latents", "reference"))] if f in recipe.gaussian else []),
        ("diffusion", (*made_by, seed), diffusion, ("latents",)),
        ("progress", (*made_by, seed, at), progress, ("diffusion", "reference")),
        *([("likelihood", (*made_by, seed), likelihood, ("diffusion",))] if recipe.on_request else []),
        ("probe", (judge.id,), probe, ()),
        ("samples", (*made_by, seed, guidance, sampler, steps), samples, ("diffusion", "probe")),
        ("evaluation", (*made_by, seed, guidance, sampler, steps, at), evaluation, ("samples", "reference")),
        *(
            [("memorisation", (*made_by, seed, guidance, sampler, steps), memorisation, ("samples",))]
            if recipe.nearer is not None
            else []
        ),
    ):
        stages[stage] = w.write(stage, key, make, place, [stages[parent] for parent in parents])
    axes = {
        "data": recipe.data,
        "resolution": recipe.resolution,
        "scale": recipe.scale,
        "budget": recipe.budget,
        "f": f,
        "regulariser": regulariser,
        "channels": CHANNELS[f],
        "conditioning": recipe.conditioning,
        "task": recipe.task,
        "sampler": sampler,
        "steps": steps,
        "eta": 0.0 if sampler == "ddim" else None,
        "variance": "small" if sampler == "ddpm" else None,
        "spacing": "leading",
        "guidance_scale": guidance,
        "seed": seed,
        "ae_seed": trained.seed,
        "sampler_seed": 0,
        "extractor": extractor,
    }
    settings = {} if trained.kl_weight is None else {"ae.kl_weight": f"{trained.kl_weight:g}"}
    given = {"ae.f": f, **settings, "sampler.steps": steps}
    return Cell(name, axes, tuple(f"{key}={value}" for key, value in given.items()), stages, settings)


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1]))
    place = Path(sys.argv[1])
    build(place / "full")
    build(place / "main", Recipe(regularisers=("kl",), factors=(1, 4, 8, 16, 32), steps=(50,)))
    gaps = Recipe(
        missing=[("evaluation", "kl", 8, 10)],
        failed=[("diffusion", "vq", 16, steps) for steps in (5, 10, 20, 50)],
        kernel_offset=-0.02,
    )
    build(place / "gaps", gaps)
    build(place / "seeds", Recipe(regularisers=("kl",), steps=(10, 50), seeds=(0, 1, 2), guidance=(1.0, 2.0)))
