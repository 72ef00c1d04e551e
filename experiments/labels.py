"""What lines about stages say behind their names: what sets a cell apart, as far as the stage depends on it."""

from collections.abc import Mapping
from typing import Any

Axes = Mapping[str, Any]


def first_stage(axes: Axes) -> str:
    """Of a first stage."""
    return f"f={axes['f']} {axes['regulariser']}"


def condition(axes: Axes) -> str:
    """Of what reads a condition off images."""
    return str(axes["conditioning"])


def model(axes: Axes) -> str:
    """Of a diffusion model; classes are the usual condition."""
    return first_stage(axes) + (f" {axes['conditioning']}" if axes["conditioning"] != "class" else "")


def samples(axes: Axes) -> str:
    """Of a sample set."""
    text = f"{model(axes)} {axes['sampler']} {axes['steps']} steps"
    if axes["guidance_scale"] != 1:
        scale = axes["guidance_scale"]
        text += f" guidance {scale if isinstance(scale, str) else format(scale, 'g')}"
        text += f" by {axes['guidance_guide']}" if axes.get("guidance_guide") else ""
    if (axes["height"], axes["width"]) != (axes["resolution"], axes["resolution"]):
        text += f" {axes['width']}x{axes['height']} px"
    return text
