"""What a condition is: everything that the program knows of one stands in one `ConditionKind`."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from PIL import Image
from torch import Tensor

from experiments.conditions.asked import GivenSample
from experiments.conditions.probe_score import ProbeScore
from experiments.conditions.scores import TaskScore
from experiments.data_facts import Vocabulary
from ldm.conditioning import Conditioning
from ldm.data.fields import FieldMaker
from ldm.first_stage.latent_scale import LatentScale

OptionsT = TypeVar("OptionsT")

Encode = Callable[[Tensor], Tensor]
"""image -> normalised latent, by a frozen first stage."""


@dataclass(frozen=True)
class BuildContext:
    """What tau_theta is built for: data with this vocabulary, and a first stage of factor f with so many channels.

    `encode` is that of the first stage; it is called where the condition is made, not where networks are only built.
    """

    vocabulary: Vocabulary
    f: int
    channels: int
    device: str
    encode: Encode


@dataclass(frozen=True)
class ImportedModel:
    """A model of another program: where it was read from, and the scale between its raw and normalised latents."""

    path: str
    latent_scale: Callable[[], LatentScale]


def _as_it_is(named: Any, model: ImportedModel, context: BuildContext) -> Conditioning:
    assert isinstance(named, Conditioning)
    return named


def _has_null(named: Any) -> None:
    """Guidance can always drop the condition."""


@dataclass(frozen=True)
class ImportedForm:
    """How models of other programs take a condition.

    conditioning: the class that reads it. options(conditioning, path): the options that its sizes stand for.
    fitted(conditioning, model, context): it for the data and the first stage at hand. check_null(conditioning): raises
    UserError where the condition cannot be dropped. The first three raise UserError for what this program cannot give.
    """

    conditioning: type[Conditioning]
    options: Callable[[Any, str], Mapping[str, Any]]
    fitted: Callable[[Any, ImportedModel, BuildContext], Conditioning] = _as_it_is
    check_null: Callable[[Any], None] = _has_null


def _unchanged(settings: dict[str, Any]) -> dict[str, Any]:
    return settings


def _no_check(options: Any) -> None:
    """Nothing but the choices needs a check."""


def _any_side(options: Any) -> int:
    return 1


def _no_task(options: Any) -> None:
    """No image to start from lacks anything."""


@dataclass(frozen=True)
class ConditionKind(Generic[OptionsT]):
    """A condition that a diffusion model can be given, as `conditioning=<name>` chooses it.

    name: of its settings in the group `conditioning`. options: their dataclass.
    fields(options, device): how each of the data fields that it reads is made.
    conditioning(options, context): its tau_theta. Raises: UserError for what cannot be built.
    picture(given, size): what one sample was given, as a picture of (width, height).
    gives_tokens: whether it is given by cross-attention; otherwise by concatenation.
    is_map: whether it is an image itself, so that it must be made at the samples' own size.
    describes_one_image: whether it says more than how frequent a kind of image is, so that samples are better given
    those of images that were not trained on.
    annotation: the kind that the images must have; needs: that in words. needs_classes: whether images need classes.
    is_optional: whether data that cannot give it is trained without, which is said, instead of being refused.
    vocabulary: the entry of `Vocabulary` that its network is built for.
    leaves_known: whether it leaves some pixels of the sample known.
    check(options): raises UserError for mistakes that no range of one option shows.
    settled(settings): the filled settings without what is inactive in them.
    side_unit(options): what the sides of samples must be multiples of.
    task(options): what an image to start from lacks, in words, so that easier and harder tasks are told apart.
    probe: the score of its probe. scores: other scores. imported: how imported models take it, where they do.
    said(options, words, classes, device): the fields of samples of which each was asked for in words, of images with
    these classes; None where no words can say it. Raises: UserError for words that it does not know.
    """

    name: str
    options: type[OptionsT]
    fields: Callable[[OptionsT, str], Mapping[str, FieldMaker]]
    conditioning: Callable[[OptionsT, BuildContext], Conditioning]
    picture: Callable[[GivenSample, tuple[int, int]], Image.Image]
    gives_tokens: bool
    is_map: bool = False
    describes_one_image: bool = True
    annotation: str | None = None
    needs: str | None = None
    needs_classes: bool = False
    is_optional: bool = False
    vocabulary: str | None = None
    leaves_known: bool = False
    check: Callable[[OptionsT], None] = _no_check
    settled: Callable[[dict[str, Any]], dict[str, Any]] = _unchanged
    side_unit: Callable[[OptionsT], int] = _any_side
    task: Callable[[OptionsT], str | None] = _no_task
    probe: ProbeScore | None = None
    scores: tuple[TaskScore, ...] = ()
    imported: ImportedForm | None = None
    said: Callable[[OptionsT, Sequence[str], Sequence[str], str], Mapping[str, Tensor]] | None = None

    @property
    def all_scores(self) -> tuple[TaskScore, ...]:
        """How samples are measured against it, the probe first."""
        return self.scores if self.probe is None else (self.probe, *self.scores)

    def can_be_given_by(self, classes: int, annotations: Container[str]) -> bool:
        """Whether images with so many classes and these kinds of annotations have what it needs."""
        has_annotation = self.annotation is None or self.annotation in annotations
        return has_annotation and (not self.needs_classes or classes > 1)
