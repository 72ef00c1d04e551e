"""What progressive coding and the variational bound are reported as; `ldm.diffusion.likelihood` computes them."""

from typing import Final

from ldm.metrics.values import Metric
from ldm.records import LIKELIHOOD

PROGRESSIVE_BITS: Final = Metric("progressive_bits_per_dim", "bits received in all", None, LIKELIHOOD, "bits/dim")
PROGRESSIVE_RMSE: Final = Metric(
    "progressive_rmse255", "RMSE on 0–255 of the last guess", False, LIKELIHOOD, "grey levels"
)
VLB: Final = Metric(
    "vlb_bits_per_dim", "bound on the likelihood of images", False, LIKELIHOOD, "bits/dim", headline_from=0
)
VLB_PRIOR: Final = Metric("vlb_prior_bits_per_dim", "the prior's term of the bound", None, LIKELIHOOD, "bits/dim")
VLB_DECODER: Final = Metric("vlb_decoder_bits_per_dim", "the decoder's term of the bound", None, LIKELIHOOD, "bits/dim")
LATENT_DENSITY: Final = Metric(
    "latent_density_nats_per_dim", "bound on the density of latents", None, LIKELIHOOD, "nats/dim", headline_from=0
)
"""Densities of different latent spaces have different units: no end of them is better."""
