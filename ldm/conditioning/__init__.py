"""Conditions: data fields -> tokens for cross-attention or maps for concatenation."""

from ldm.conditioning.class_label import ClassConditioning
from ldm.conditioning.combined import CombinedConditioning
from ldm.conditioning.contract import Condition, Conditioning, Unconditional
from ldm.conditioning.layout import BoxTokenConditioning, LayoutConditioning
from ldm.conditioning.maps import InpaintingConditioning, SemanticConditioning, SuperResolutionConditioning
from ldm.conditioning.text import FrozenTextConditioning, TextConditioning

__all__ = [
    "BoxTokenConditioning",
    "ClassConditioning",
    "CombinedConditioning",
    "Condition",
    "Conditioning",
    "FrozenTextConditioning",
    "InpaintingConditioning",
    "LayoutConditioning",
    "SemanticConditioning",
    "SuperResolutionConditioning",
    "TextConditioning",
    "Unconditional",
]
