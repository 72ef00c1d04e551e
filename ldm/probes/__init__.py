"""Probes: small networks, trained on real images, that read a picture's condition off it.

A generated picture is given the questions of a held-out real one, so that the score of samples has a ceiling (held-out
images) and a floor (the conditions of other samples).
"""

from ldm.probes.build import PROBES, build_probe
from ldm.probes.contract import Probe

__all__ = ["PROBES", "Probe", "build_probe"]
