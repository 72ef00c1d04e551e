"""The tables of a scale: sizes, budgets and the paper's rows, looked up by architecture and downsampling factor."""

import copy
from collections.abc import Mapping
from typing import Any

from experiments import custom
from experiments.conditions import has_tokens
from ldm.denoiser import DENOISERS, Denoiser, denoiser_options
from ldm.errors import UserError, nearest
from ldm.parts import defaults_of, look_up

PAPERS_OWN = "unet"
"""The denoiser of all rows of the paper, and the one by whose cost trainer.budget=flops goes."""

REFERENCE = "reference"
"""The family of the paper's first stages, whose tables are the scale's own."""


def filled(group: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """The group with what is null in it taken from the table, where it says."""
    return {key: copy.deepcopy(table[key]) if value is None and key in table else value for key, value in group.items()}


def for_factor(table: Mapping[Any, Any], f: int, scale: Mapping[str, Any], what: str) -> Any:
    """What a table has for f. Raises: UserError where it has nothing."""
    if f not in table:
        known = ", ".join(str(key) for key in table)
        raise UserError(f"scale={scale['name']} has no {what} for ae.f={f}; it has them for f = {known}")
    return table[f]


def for_regulariser(tables: Mapping[str, Any], name: str, ae: Mapping[str, Any]) -> dict[str, Any]:
    """What a scale says of a group of the first stage's settings, with what it says of a regulariser and f in front."""
    return {**tables[name], **tables.get(f"{name}_{ae['regulariser']}", {}).get(ae["f"], {})}


def denoiser_settings(config: Mapping[str, Any], f: int) -> dict[str, Any]:
    """The denoiser's settings at downsampling factor f: the user's, then the scale's tables, then its own defaults.

    Raises: UserError for an unknown denoiser, or where the scale has no such architecture, or none for that f.
    """
    given = config["denoiser"]
    if custom.is_custom(given):
        return dict(given)
    part = look_up(DENOISERS, given["name"], "denoiser.name")
    row, _ = architecture(config, f)
    family = row_family(config["scale"]["denoiser"], given["name"], config)
    if "denoiser" in row and given["name"] != PAPERS_OWN:
        raise UserError(
            f"denoiser.architecture={given['architecture']} is a UNet of the paper's, which denoiser={given['name']} "
            "is not: leave denoiser.architecture out"
        )
    table = row.get("denoiser") or ({} if family is None else for_factor(family, f, config["scale"], "denoiser"))
    defaults = defaults_of(part)
    sizes = getattr(part, "sizes", {}).get(given.get("size"), {})
    settings = filled(given, {**defaults, **table, **sizes}) | ({"size": None} if sizes else {})
    if not has_tokens(config["conditioning"]):
        settings |= {key: defaults[key] for key in part.context_options}
    return settings


def factors(config: Mapping[str, Any]) -> list[int]:
    """The downsampling factors that a scale has this denoiser for, as far as the images' side suits it."""
    scale, given, side = config["scale"], config["denoiser"], config["data"]["resolution"]
    found = [1, *scale["ae"]["latent_channels"]]
    if not custom.is_custom(given):
        named, _ = _named(scale.get("architectures"), "denoiser.architecture", given["architecture"], scale)
        table = named or row_family(scale["denoiser"], given["name"], config) or found
        found = [f for f in found if f in table]
    return [f for f in found if side % (f * 2 ** options_of_denoiser(denoiser_settings(config, f)).halvings) == 0]


def options_of_denoiser(settings: Mapping[str, Any]) -> Denoiser:
    """The options of a denoiser that is trained, checked; `settings` are a group `denoiser` that is filled in.

    Those of the small denoiser hold no name, since it is a UNet always.
    """
    if custom.is_custom(settings):
        return custom.denoiser(settings)
    options = {key: value for key, value in settings.items() if key not in ("name", "architecture")}
    return denoiser_options(settings.get("name", "unet"), options)


def row_family(tables: Mapping[str, Any], name: str, config: Mapping[str, Any]) -> Any:
    """The table of that name; for a model without cross-attention the unconditional one where the scale has it."""
    return tables.get(name if has_tokens(config["conditioning"]) else f"{name}_unconditional", tables.get(name))


def architecture(config: Mapping[str, Any], f: int) -> tuple[Mapping[str, Any], list[str]]:
    """What the scale says of `denoiser.architecture` at downsampling factor f, and notes.

    A mapping of "denoiser", "conditioning" and "training", as far as they are not the scale's usual ones; empty where
    no architecture is named, or where the scale has none with names, which is noted.
    """
    scale = config["scale"]
    found, notes = _named(
        scale.get("architectures"), "denoiser.architecture", config["denoiser"]["architecture"], scale
    )
    return (for_factor(found, f, scale, config["denoiser"]["architecture"]) if found else {}), notes


def first_stage_tables(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The scale's tables of first stages, with those of `ae.architecture`'s name or family in front, and notes.

    Raises: UserError for a name or a family that the scale does not have, or for both.
    """
    scale, chosen = config["scale"], config["ae"]["architecture"]
    name, family = chosen["name"], chosen.get("family", REFERENCE)
    tables = scale["ae"]
    if family != REFERENCE:
        return _of_family(tables, family, name, scale), []
    found, notes = _named(tables.get("architectures"), "ae.architecture.name", name, scale)
    return {**tables, **{key: {**tables[key], **table} for key, table in found.items()}}, notes


def _of_family(tables: Mapping[str, Any], family: str, name: str | None, scale: Mapping[str, Any]) -> dict[str, Any]:
    """A scale's tables of first stages with a family's in front; its coders stand in place of all others."""
    if name is not None:
        raise UserError(
            f"ae.architecture.name={name} is a row of the paper's, which ae.architecture.family={family} is not: leave "
            "one of them out"
        )
    own = tables.get("families", {}).get(family)
    if own is None:
        raise UserError(f"scale={scale['name']} has no first stages of ae.architecture.family={family}")
    others = {key: table for key, table in tables.items() if not key.startswith("coder")}
    in_front = {k: {**others.get(k, {}), **v} if isinstance(v, Mapping) else v for k, v in own.items()}
    return {**others, **in_front}


def _named(
    tables: Mapping[str, Any] | None, key: str, name: str | None, scale: Mapping[str, Any]
) -> tuple[Mapping[str, Any], list[str]]:
    """The table of that name, and notes; a scale without named tables has networks of its own, which is noted."""
    if name is None:
        return {}, []
    if tables is None:
        return {}, [f"scale={scale['name']} has no {key}={name}: its own networks are used instead"]
    if name not in tables:
        raise UserError(
            f"{key}={name} is none that scale={scale['name']} has{nearest(name, tables)} "
            f"(there are {', '.join(sorted(tables))})"
        )
    return tables[name], []


def paper_training(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Batch, steps and learning rate of the paper for a config's architecture, or else for its f and conditioning."""
    scale, f, name = config["scale"], config["ae"]["f"], config["denoiser"]["architecture"]
    rows = row_family(scale["trainer"], "paper", config)
    if rows is None:
        raise UserError(
            f"trainer.budget=paper is defined at scale=paper, not at scale={scale['name']}; use images or flops"
        )
    kind = config["denoiser"]["name"]
    if kind != PAPERS_OWN and kind in DENOISERS:
        raise UserError(
            f"trainer.budget=paper is how the paper trained its UNets, which denoiser={kind} is not: use images or "
            "flops"
        )
    if name is None:
        return for_factor(rows, f, scale, "training row")
    row, _ = architecture(config, f)
    if "training" not in row:
        raise UserError(
            f"trainer.budget=paper: how denoiser.architecture={name} was trained at f = {f} is not published; use "
            "trainer.budget=images"
        )
    return row["training"]
