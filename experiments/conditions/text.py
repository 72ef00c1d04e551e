"""Text to image: the words of a caption, read by a transformer that is trained along, or by a frozen pretrained one."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from experiments.conditions.asked import AskedConditions, GivenSample
from experiments.conditions.condition import BuildContext, ConditionKind, ImportedForm, ImportedModel
from experiments.conditions.drawing import written
from experiments.conditions.probe_score import ProbeScore
from experiments.conditions.scores import Instruments, Measure, MeasuredSamples, Scored, Values
from ldm.conditioning import Conditioning, FrozenTextConditioning, TextConditioning
from ldm.data.contract import ImageCache
from ldm.data.fields import WordPieces
from ldm.errors import UserError
from ldm.metrics.clip_score import CLIP_SCORE, MISSING, ClipScore, clip_score, load_clip_score
from ldm.metrics.values import OTHER_CONDITIONS, REAL_IMAGES, Variant, varied
from ldm.parts import option
from ldm.pretrained.text import PretrainedText, Tokeniser, bert_tokeniser, pretrained_text
from ldm.records import LeftOut


@dataclass(frozen=True)
class TextOptions:
    """dim, depth: width of the tokens and layers of the transformer, None under an encoder, which has its own.

    length: word pieces that a caption is cut or padded to. encoder: the folder of a frozen text encoder.
    """

    dim: int | None = option(low=1, help="width of the tokens")
    depth: int | None = option(low=1, help="blocks of the transformer")
    length: int = option(low=2, unit="word pieces", help="that a caption is cut or padded to")
    encoder: str | None = option(help="folder of a frozen text encoder")


def _pretrained(options: TextOptions, device: str) -> PretrainedText:
    assert options.encoder is not None
    with torch.device("cpu"):  # networks may be built without memory, the encoder never is
        return pretrained_text(Path(options.encoder).expanduser(), options.length, device)


def _tokeniser(options: TextOptions, device: str) -> Tokeniser:
    return _pretrained(options, device).tokeniser if options.encoder else bert_tokeniser(options.length)


def _conditioning(options: TextOptions, context: BuildContext) -> Conditioning:
    if options.encoder:
        text = _pretrained(options, context.device)
        words = text.tokeniser
        return FrozenTextConditioning(text.encode, words.vocabulary, words.null, text.width, words.padding)
    assert options.dim is not None
    assert options.depth is not None
    words = bert_tokeniser(options.length)
    return TextConditioning(words.vocabulary, words.null, options.dim, options.depth)


def _settled(settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "dim": None, "depth": None} if settings["encoder"] else settings


def _captions(images: ImageCache) -> tuple[str, ...]:
    assert images.captions is not None, "planning asks for the annotation first"
    return images.captions


def _picture(given: GivenSample, size: tuple[int, int]) -> Image.Image:
    return written(_captions(given.images)[given.index], size)


def _options_of(named: TextConditioning, path: str) -> dict[str, Any]:
    if named.transformer.vocabulary != bert_tokeniser(named.tokens).vocabulary:
        raise UserError(
            f"the denoiser at {path} reads tokens of a vocabulary of {named.transformer.vocabulary}, which are "
            "neither BERT's word pieces nor boxes; in Python, ldm.interop.sample takes the tokens"
        )
    depth = len(named.transformer.layers)
    return {"dim": named.context_dim, "depth": depth, "length": named.tokens, "encoder": None}


def _fitted(named: TextConditioning, model: ImportedModel, context: BuildContext) -> TextConditioning:
    """A copy that also knows what an empty caption is."""
    made = copy.deepcopy(named)
    made.null_tokens = bert_tokeniser(named.tokens).null
    return made


@dataclass(frozen=True)
class ClipMeasure:
    """CLIP scores of samples with their captions, with those of other samples, and of the captions' own images."""

    model: ClipScore
    asked: AskedConditions
    partners: NDArray[np.int64]

    def __call__(self, samples: Tensor, part: range, fields: Mapping[str, Tensor]) -> Values:
        """The three scores of each sample, (n,). Shapes: samples uint8 (n, 3, H, W)."""
        captions = _captions(self.asked.fields.images)
        own = [captions[self.asked.indices[i]] for i in part]
        others = [captions[self.asked.indices[i]] for i in self.partners[part.start : part.stop]]
        return {
            "clip_score": self.model(samples, own),
            "shuffled_clip_score": self.model(samples, others),
            "real_clip_score": self.model(self.asked.originals(part), own),
        }


@dataclass(frozen=True)
class ClipTaskScore:
    """The CLIP score, where a CLIP model was given."""

    weights: ClassVar[Mapping[str, str]] = {"clip_model": "clip"}
    floor: ClassVar[Variant] = OTHER_CONDITIONS
    ceiling: ClassVar[Variant | None] = REAL_IMAGES

    def measure(self, options: TextOptions, asked: AskedConditions, instruments: Instruments) -> Measure | None:
        """The scores of each sample; None without a CLIP model."""
        model = _clip(instruments.settings, instruments.device)
        return None if model is None else ClipMeasure(model, asked, asked.partners)

    def facts(self, settings: Mapping[str, Any], device: str) -> dict[str, Any]:
        """What protocols say of the CLIP model."""
        model = _clip(settings, device)
        return {} if model is None else {"clip": clip_facts(model)}

    def scored(self, samples: MeasuredSamples) -> tuple[list[Scored], list[LeftOut]]:
        """The score, its floor and its ceiling."""
        if "clip_score" not in samples.values:
            return [], [LeftOut("clip_score", MISSING)]
        found = [
            clip_score(samples.values[varied(CLIP_SCORE, *variants).name], *variants)
            for variants in ((), (OTHER_CONDITIONS,), (REAL_IMAGES,))
        ]
        return [Scored.of(found, samples.protocol("clip_score", **samples.facts["clip"]))], []


def _clip(settings: Mapping[str, Any], device: str) -> ClipScore | None:
    folder = settings.get("clip_model")
    return load_clip_score(Path(folder).expanduser(), device) if folder else None


def clip_facts(model: ClipScore) -> dict[str, Any]:
    """What protocols say of a CLIP model."""
    return {
        "extractor": "clip",
        "extractor_size": model.size,
        "extractor_weights": model.weights_hash,
        "resize": "transformers' preprocessing",
    }


def _said(options: TextOptions, words: Sequence[str], classes: Sequence[str], device: str) -> Mapping[str, Tensor]:
    return {"tokens": _tokeniser(options, device)(list(words))}


TEXT = ConditionKind(
    name="text",
    options=TextOptions,
    fields=lambda options, device: {"tokens": WordPieces(_tokeniser(options, device))},
    conditioning=_conditioning,
    picture=_picture,
    gives_tokens=True,
    annotation="captions",
    needs="a caption for every image",
    settled=_settled,
    probe=ProbeScore("text"),
    scores=(ClipTaskScore(),),
    imported=ImportedForm(TextConditioning, _options_of, _fitted),
    said=_said,
)
