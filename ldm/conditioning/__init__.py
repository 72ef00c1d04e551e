"""Conditions: data fields -> tokens for cross-attention or maps for concatenation."""

from ldm.conditioning.class_label import ClassConditioning
from ldm.conditioning.contract import Condition, Conditioning, Unconditional

__all__ = ["ClassConditioning", "Condition", "Conditioning", "Unconditional"]
