"""First stages: images to latents and back, under one contract."""

from ldm.first_stage.build import FIRST_STAGES, build_first_stage, check_factor
from ldm.first_stage.contract import FirstStage, Gaussian, Reconstruction, TrainableFirstStage
from ldm.first_stage.identity import IdentityFirstStage
from ldm.first_stage.kl import KLFirstStage
from ldm.first_stage.plain import PlainFirstStage
from ldm.first_stage.vq import Quantised, VectorQuantiser, VQFirstStage

__all__ = [
    "FIRST_STAGES",
    "FirstStage",
    "Gaussian",
    "IdentityFirstStage",
    "KLFirstStage",
    "PlainFirstStage",
    "Quantised",
    "Reconstruction",
    "TrainableFirstStage",
    "VQFirstStage",
    "VectorQuantiser",
    "build_first_stage",
    "check_factor",
]
