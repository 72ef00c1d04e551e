"""python -m benchmarks.spacings STORE: what grids of noise levels leave of the spectra of a store's latents.

With the exact denoiser of Gaussians that have these spectra, so that no training is in it. Numbers stand in
docs/decisions/0023-spacing-neutral-over-f.md.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldm.diffusion.model import Denoise
from ldm.diffusion.schedule import SCHEDULES, Schedule, make_schedule
from ldm.samplers import Sampler, asked_levels, build_sampler, sample
from ldm.samplers.spacing import SPACINGS


def _nearest(wanted: Tensor, schedule: Schedule) -> Tensor:
    """The indices, all different and up to the last, whose log(sigma / alpha) is nearest to these rising values."""
    noise = -schedule.log_snr(schedule.time(torch.arange(schedule.steps))) / 2
    found, position = (noise - wanted[:, None]).abs().argmin(dim=1), torch.arange(len(wanted))
    rising = (found - position).cummax(dim=0).values + position
    return torch.minimum(rising, schedule.steps - len(wanted) + position)


def _ends(schedule: Schedule) -> tuple[float, float]:
    """log(sigma / alpha) at the first and the last index."""
    return tuple((-schedule.log_snr(schedule.time(torch.tensor([0, schedule.steps - 1]))) / 2).tolist())


def even_in_log_snr(steps: int, schedule: Schedule) -> Tensor:
    """Lu et al. 2022 (DPM-Solver), section 3.4."""
    return _nearest(torch.linspace(*_ends(schedule), steps, dtype=torch.float64), schedule)


def karras(steps: int, schedule: Schedule, rho: float = 7) -> Tensor:
    """Karras et al. 2022, eq. 5."""
    first, last = (np.exp(end / rho) for end in _ends(schedule))
    return _nearest(rho * torch.linspace(first, last, steps, dtype=torch.float64).log(), schedule)


def squares(steps: int, schedule: Schedule) -> Tensor:
    """ceil(total (i / steps)^2): quadratic up to the last index."""
    return torch.tensor([max(-(-schedule.steps * i * i // steps**2), i) - 1 for i in range(1, steps + 1)])


GRIDS: Mapping[str, Callable[[int, Schedule], Tensor]] = {
    **SPACINGS,
    "squares": squares,
    "log-SNR": even_in_log_snr,
    "Karras": karras,
}


def exact(spreads: Tensor, schedule: Schedule) -> Denoise:
    """E[x_0 | x_t] of independent coordinates N(0, s^2)."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return alpha * spreads**2 / (alpha**2 * spreads**2 + sigma**2) * x_t

    return denoise


def response(sampler: Sampler, times: Tensor, spreads: Tensor, error: float = 0.0) -> Tensor:
    """Standard deviations that come out of x_T ~ N(0, 1), each estimate off by `error` s, independently of the others.

    The sampler is linear: row 0 begins at 1, row k at 0 with an error in call k alone, and variances add up.
    """
    calls = len(asked_levels(sampler, times)) if error else 0
    denoise, asked = exact(spreads, sampler.schedule), 0  # type: ignore[attr-defined]

    def wrong(x_t: Tensor, t: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        estimate = denoise(x_t, t)
        if error:
            estimate[asked] += error * spreads
        return estimate

    x = torch.zeros(calls + 1, len(spreads), dtype=torch.float64)
    x[0] = 1
    *_, end = sample(sampler, wrong, x, times, lambda shape: torch.zeros(len(x), *shape, dtype=torch.float64))
    return end.square().sum(dim=0).sqrt()


def times_of(name: str, steps: int, schedule: Schedule, final: float = 0.0) -> Tensor:
    """The falling grid of that name."""
    indices = torch.unique(GRIDS[name](steps, schedule).clamp(max=schedule.steps - 1))
    times = (indices.double().flip(0) + 1) / schedule.steps
    return torch.cat([times[times > final], torch.tensor([final], dtype=torch.float64)])


def distance(found: Tensor, spreads: Tensor) -> float:
    """The squared Wasserstein distance of the two Gaussians in units of the variance."""
    return float((found - spreads).square().sum() / spreads.square().sum())


def worst_octave(found: Tensor, spreads: Tensor) -> float:
    """The least ratio of standard deviations in an octave of s that holds a thousandth of the variance or more."""
    octaves, ratios = torch.floor(torch.log2(spreads)), []
    for octave in octaves.unique():
        inside = octaves == octave
        share = spreads[inside].square().sum()
        if share >= 1e-3 * spreads.square().sum():
            ratios.append(float((found[inside].square().sum() / share).sqrt()))
    return min(ratios)


def spectrum(latents: Tensor) -> Tensor:
    """Standard deviations of the principal components, their mean square 1; shape (dimensions,)."""
    flat = latents.double().flatten(1)
    flat = flat - flat.mean(dim=0)
    variances = torch.linalg.eigvalsh(flat.T @ flat / len(flat)).clamp(min=1e-8)
    return (variances / variances.mean()).sqrt()


def spectra(store: Path) -> dict[int, Tensor]:
    """By f those of a store's training images and of the latents of its first stages, the first of each f."""
    [images] = store.glob("data/train-*/images.npy")
    found = {1: spectrum(torch.from_numpy(np.load(images)).double())}
    side = int(np.load(images, mmap_mode="r").shape[1])
    for path in sorted(store.glob("latents/*/latents.npy")):
        channels, height, _ = json.loads((path.parent / "record.json").read_text())["facts"]["shape"]
        found.setdefault(side // height, spectrum(torch.from_numpy(np.load(path))[:, :channels]))
    return dict(sorted(found.items()))


def main(argv: list[str]) -> int:
    """Prints, for each grid and number of network calls, what is lost at each f."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spacings", description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--schedule", choices=SCHEDULES, default="scaled_linear")
    parser.add_argument("--error", type=float, default=0.0, help="of each estimate, in units of s (%(default)s)")
    parser.add_argument("--calls", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--samplers", nargs="+", default=["ddim"])
    parser.add_argument("--grids", nargs="+", default=list(GRIDS))
    options = parser.parse_args(argv)
    schedule, known = make_schedule(options.schedule), spectra(options.store)
    print("f:", *(f"{f} ({len(s)} from {s.min():.3f} to {s.max():.1f})" for f, s in known.items()))
    for name in options.samplers:
        sampler = build_sampler(name, schedule, {})
        for calls in options.calls:
            steps = (calls + 1) // 2 if name == "heun" else calls
            print(f"{name}, {calls} calls: lost variance of the distance at each f | worst octave")
            for grid in options.grids:
                times = times_of(grid, steps, schedule)
                found = [(response(sampler, times, s, options.error), s) for s in known.values()]
                lost = " ".join(f"{distance(*pair):.4f}" for pair in found)
                print(f"  {grid:10} {lost} | " + " ".join(f"{worst_octave(*pair):.2f}" for pair in found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
