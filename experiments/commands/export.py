"""Writes a trained cell of a store as a diffusers pipeline folder with a model card; nothing is trained here.

The cell is named by the overrides that run.py was given, or by --cell. Called as `python -m ldm.interop.export`.
"""

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.artifacts import final_weights
from experiments.cli import exit_code, with_scale, without
from experiments.commands.ledger import existing_store, in_store
from experiments.commands.model_card import MEASURED, model_card, sampled_instead
from experiments.compose import composed, settings_only
from experiments.console import say
from experiments.generate import generator_of
from experiments.images import data_facts
from experiments.plan import make_plan
from experiments.published import is_given
from experiments.resolve import with_scale_sizes
from experiments.runner import job_of
from experiments.stage import Plan
from experiments.stages import STAGES
from experiments.store import Store
from experiments.tracking import Silent
from ldm.denoiser import DiT, UNet
from ldm.errors import UserError
from ldm.interop.export import TrainedModel, is_plain, write_pipeline
from ldm.records import StageRecord

TRAINED = ("first_stage", "latents", "diffusion", "averaging")
"""What an export is made of, as far as the plan holds it: weights are averaged afterwards where that was asked for."""

FALLBACKS = {"neutral": "trailing"}
"""sampler.spacing that a DDIMScheduler has not -> what it is given instead. Any other that it has not is refused."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 0, or 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m ldm.interop.export", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write, which must not be there yet")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as run.py takes them, store=DIR among them")
    parser.add_argument("--cell", metavar="ID", help="a cell of the store; only store=DIR may be given with it")
    options = parser.parse_intermixed_args(arguments)
    return exit_code(lambda: _export(options.out, options.overrides, options.cell))


def _export(out: Path, given: Sequence[str], cell: str | None) -> int:
    overrides = with_scale(["export", *given])[1:] if cell is None else _overrides_of(cell, given)
    values = composed(overrides)
    store = existing_store(Path(values["store"]), is_read_only=True)
    settings = settings_only(values)
    facts = data_facts(with_scale_sizes(settings), store)
    plan = make_plan(settings, facts, STAGES)
    if is_given(plan.config["denoiser"]):
        raise UserError(
            "denoiser=pretrained was not trained here: export a cell that was, or take what denoiser.path names"
        )
    records = _records(plan, store)
    missing = [name for name in TRAINED if name in plan.stages and name not in records]
    if missing:
        raise UserError(
            f"the store {store.root} has no {missing[0]} of this cell: train it first with python run.py "
            f"{shlex.join(without(overrides, 'until'))}"
        )
    model = trained_model(plan, store)
    write_pipeline(out, model, model_card(out.name, plan, facts, records, model, is_plain(model)))
    say(f"{out}: cell {plan.cell} as a diffusers pipeline; its README.md says how to sample from it")
    if instead := sampled_instead(plan.config, model.spacing):
        others = [item for item in overrides if item.partition("=")[0] not in instead]
        given_instead = [f"{key}={value}" for key, value in instead.items()]
        say(
            "diffusers' pipeline does not sample as the cell does, but under "
            f"{' '.join(given_instead)}; to measure that, which trains nothing: python run.py "
            f"{shlex.join([*others, *given_instead])}"
        )
    return 0


def _overrides_of(cell: str, given: Sequence[str]) -> list[str]:
    """The overrides of a cell that a sweep asked for. Raises: UserError where the store knows none, or several."""
    if any(not item.startswith("store=") for item in given):
        raise UserError("--cell takes its overrides from the store: give store=DIR beside it and nothing else")
    root = Path(str(OverridesParser.create().parse_override(given[-1]).value()) if given else "store").expanduser()
    store = existing_store(root, is_read_only=True)
    cells = {one.cell: one for sweep in store.sweeps() for one in sweep.cells if one.cell.startswith(cell)}
    if len(cells) != 1:
        found = f"{len(cells)} cells that begin with" if cells else "no cell"
        raise UserError(f"the store {root} knows {found} {cell}; its files under sweeps/ name its cells")
    return in_store(next(iter(cells.values())), store)


def _records(plan: Plan, store: Store) -> dict[str, StageRecord]:
    """Those of the plan's stages that are complete."""
    names = [name for name in (*TRAINED, *MEASURED) if name in plan.stages]
    found = {name: store.record(name, plan.stages[name].identity) for name in names}
    return {name: record for name, record in found.items() if record is not None}


def trained_model(plan: Plan, store: Store) -> TrainedModel:
    """The trained model of a plan, with its EMA weights."""
    [sampling] = [stage for stage in STAGES if stage.name == "samples"]
    there = {name: s for name, s in plan.stages.items() if name == sampling.name or store.is_complete(name, s.identity)}
    job = job_of(sampling, dataclasses.replace(plan, stages=there), store, Silent())
    made = generator_of(job, final_weights(job), plan.config["precision"])
    if not isinstance(made.model.network, UNet | DiT):
        raise UserError("only a denoiser of this program's own architecture (denoiser=unet or dit) can be exported")
    sampler = plan.config["sampler"]
    return TrainedModel(
        first_stage=made.first_stage,
        scale=made.scale,
        network=made.model.network,
        conditioning=made.conditioning,
        schedule=made.model.schedule,
        target=made.model.output,
        latent_side=made.latent_shape[1],
        spacing=FALLBACKS.get(sampler["spacing"], sampler["spacing"]),
        final=sampler["final"],
    )
