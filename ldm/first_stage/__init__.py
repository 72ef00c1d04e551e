"""First stages: images to latents and back, under one contract."""

from ldm.first_stage.bsq import BSQFirstStage, SphericalQuantiser
from ldm.first_stage.build import FIRST_STAGES, build_first_stage, check_factor
from ldm.first_stage.contract import FirstStage, Gaussian, Reconstruction, TrainableFirstStage
from ldm.first_stage.fsq import FSQFirstStage, ScalarQuantiser
from ldm.first_stage.identity import IdentityFirstStage
from ldm.first_stage.kl import KLFirstStage
from ldm.first_stage.lfq import LFQFirstStage, LookupFreeQuantiser
from ldm.first_stage.plain import PlainFirstStage
from ldm.first_stage.quantised import Quantised, QuantisedFirstStage, Quantiser
from ldm.first_stage.vq import VectorQuantiser, VQFirstStage

__all__ = [
    "FIRST_STAGES",
    "BSQFirstStage",
    "FSQFirstStage",
    "FirstStage",
    "Gaussian",
    "IdentityFirstStage",
    "KLFirstStage",
    "LFQFirstStage",
    "LookupFreeQuantiser",
    "PlainFirstStage",
    "Quantised",
    "QuantisedFirstStage",
    "Quantiser",
    "Reconstruction",
    "ScalarQuantiser",
    "SphericalQuantiser",
    "TrainableFirstStage",
    "VQFirstStage",
    "VectorQuantiser",
    "build_first_stage",
    "check_factor",
]
