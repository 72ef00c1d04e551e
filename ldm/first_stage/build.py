"""From plain values to a first stage: the one table of regularisers, and what is read of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ldm.errors import UserError
from ldm.first_stage.bsq import BSQFirstStage
from ldm.first_stage.coder import Coders, Family, reference_coders
from ldm.first_stage.contract import FirstStage, NestableFirstStage, TrainableFirstStage
from ldm.first_stage.dc import dc_coders
from ldm.first_stage.fsq import FSQFirstStage
from ldm.first_stage.identity import IdentityFirstStage
from ldm.first_stage.initialisation import INITIALISATIONS, start_near_linear
from ldm.first_stage.kl import KLFirstStage
from ldm.first_stage.lfq import LFQFirstStage
from ldm.first_stage.losses import FirstStageLoss
from ldm.first_stage.perceptual import PerceptualLoss
from ldm.first_stage.vq import VQFirstStage
from ldm.parts import checked, look_up, options_of

FIRST_STAGES: Mapping[str, type[TrainableFirstStage]] = {
    "kl": KLFirstStage,
    "vq": VQFirstStage,
    "fsq": FSQFirstStage,
    "lfq": LFQFirstStage,
    "bsq": BSQFirstStage,
    "identity": IdentityFirstStage,
}
"""By the name that a config gives its regulariser."""

FAMILIES: Mapping[str, Family] = {"reference": reference_coders, "dc": dc_coders}
"""Encoders and decoders, by the name that a config gives their family."""

FACTORS = (1, 2, 4, 8, 16, 32, 64)


def first_stage_class(regulariser: str) -> type[TrainableFirstStage]:
    """The class of a regulariser. Raises: UserError for a name that is not in `FIRST_STAGES`, with the nearest one."""
    return look_up(FIRST_STAGES, regulariser, "ae")


def nestable(regulariser: str) -> type[NestableFirstStage]:
    """The class of a regulariser of which fewer channels can be cut. Raises: UserError where they cannot."""
    kind = first_stage_class(regulariser)
    if not issubclass(kind, NestableFirstStage):
        able = [name for name, each in FIRST_STAGES.items() if issubclass(each, NestableFirstStage)]
        raise UserError(f"ae.nested: no first channels can be cut from ae={regulariser}; use ae={' or '.join(able)}")
    return kind


def options_in(ae: Mapping[str, Any]) -> dict[str, Any]:
    """What stands of the options of its regulariser in a config's group `ae`, by name and not yet checked."""
    kind = first_stage_class(ae["regulariser"])
    if kind.group is not None:
        return dict(ae.get(kind.group, {}))
    return {name: ae[name] for name in options_of(kind.Options) if name in ae}


def filled_options(ae: Mapping[str, Any], default: Callable[[str], Any]) -> dict[str, Any]:
    """A config's group `ae` with what its regulariser says, given `default`, of its options and channels that are null.

    `default` gives None for a name that it does not have. Raises: UserError for a value that is not allowed.
    """
    kind = first_stage_class(ae["regulariser"])
    channels, options = kind.filled(ae["channels"], options_in(ae), default)
    own = options if kind.group is None else {kind.group: {**ae[kind.group], **options}}
    filled = {**ae, "channels": channels, **own}
    _checked_options(kind, options_in(filled))
    return filled


def _checked_options(kind: type[TrainableFirstStage], options: Mapping[str, Any]) -> Any:
    return checked(kind.Options, options, "ae" if kind.group is None else f"ae.{kind.group}")


def check_factor(factor: int, resolution: int) -> None:
    """Checks that images of `resolution` can be compressed by `factor`.

    Raises: UserError where they cannot.
    """
    if factor not in FACTORS:
        raise UserError(
            f"ae.f={factor} is not a power of two from 1 to {FACTORS[-1]}: choose {', '.join(map(str, FACTORS))}."
        )
    if factor > resolution:
        raise UserError(
            f"ae.f={factor} is larger than the resolution of {resolution} px: choose a smaller f or larger images."
        )
    if resolution % factor:
        raise UserError(
            f"The resolution of {resolution} px is not divisible by ae.f={factor}: choose a multiple of {factor}."
        )


def build_first_stage(
    *,
    regulariser: str,
    factor: int,
    channels: int,
    ch: int,
    ch_mult: Sequence[int],
    num_res_blocks: int,
    resolution: int,
    attn_sides: Sequence[int],
    mid_attention: bool,
    dropout: float,
    options: Mapping[str, Any],
    initialisation: str = "reference",
    is_nested: bool = False,
    family: str = "reference",
) -> FirstStage:
    """A first stage with random weights; factor 1 is the identity under any regulariser.

    `options` are those of the regulariser's class (`Options`). Nothing beyond `resolution` matters to the identity.
    `initialisation`: see `ldm.first_stage.initialisation`; `family`: one of `FAMILIES`. `is_nested`: of the kind that
    fewer channels are cut from.
    Raises: UserError where the values do not fit together.
    """
    kind = first_stage_class(regulariser)
    if initialisation not in INITIALISATIONS:
        raise UserError(
            f"ae.architecture.initialisation={initialisation} is not known: choose {', '.join(INITIALISATIONS)}."
        )
    make = look_up(FAMILIES, family, "ae.architecture.family")
    if initialisation == "components" and make is not reference_coders:
        raise UserError(
            f"ae.architecture.initialisation=components knows no networks of ae.architecture.family={family}: choose "
            "reference or near_linear."
        )
    if is_nested and make is not reference_coders:
        raise UserError(
            f"ae.nested: no first channels can be cut from networks of ae.architecture.family={family}, in whose "
            "latents averages over all channels are added: choose ae.architecture.family=reference."
        )
    check_factor(factor, resolution)
    if factor == 1:
        return IdentityFirstStage()
    coders = Coders(factor, channels, ch, ch_mult, num_res_blocks, resolution, attn_sides, mid_attention, dropout, make)
    own = _checked_options(kind, options)
    model = nestable(regulariser).build_nested(coders) if is_nested else kind.build(coders, channels, own)
    if initialisation != "reference":
        start_near_linear(model)
    return model


def build_first_stage_loss(
    regulariser: str,
    options: Mapping[str, Any],
    perceptual: PerceptualLoss | None,
    perceptual_weight: float,
    discriminator_weight: float,
) -> FirstStageLoss:
    """The loss of a first stage, with the penalties and the reduction that its class declares.

    As in the reference, a KL model's is summed over pixels and a VQ model's averaged.
    Raises: UserError for an unknown regulariser or option.
    """
    kind = first_stage_class(regulariser)
    return loss_of(kind, _checked_options(kind, options), perceptual, perceptual_weight, discriminator_weight)


def loss_of(
    kind: type[TrainableFirstStage],
    options: Any,
    perceptual: PerceptualLoss | None,
    perceptual_weight: float,
    discriminator_weight: float,
) -> FirstStageLoss:
    """The loss of a class of first stages with an `Options` of it; see `build_first_stage_loss`."""
    weights = {term: getattr(options, option) for term, option in kind.penalties.items()}
    return FirstStageLoss(perceptual, kind.reduction, weights, perceptual_weight, discriminator_weight)
