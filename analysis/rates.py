"""By regulariser what its rate is, and the distortion that goes with it."""

from ldm.errors import UserError

RATE_OF = {
    "kl": ("rate_kl_fitted", "rate_kl_prior", "rmse255_sample", "psnr_sample"),
    "vq": ("rate_index_crossentropy", "rate_index_log2", "rmse255", "psnr"),
    "identity": ("rate_lossless", "rate_raw", "rmse255", "psnr"),
    "none": ("", "", "rmse255", "psnr"),
}
"""By regulariser: the rate that is drawn, the cruder one, and the distortion of what that rate codes (KL: a sample).

Latents that are neither drawn nor quantised have no rate.
"""


def rate_metrics(regulariser: str) -> tuple[str, str, str, str]:
    """The entry of `RATE_OF`.

    Raises: UserError for a regulariser whose rate is not known.
    """
    if regulariser not in RATE_OF:
        raise UserError(
            f"No rate is known of regulariser '{regulariser}': add it to RATE_OF in analysis/rates.py "
            f"(known: {', '.join(RATE_OF)})."
        )
    return RATE_OF[regulariser]


RATE_NOTES = {
    "kl": "KL = rate_kl_fitted (KL to a Gaussian fitted per channel) with the distortion of a posterior sample, "
    "hollow rate_kl_prior (KL to N(0, I))",
    "vq": "VQ = rate_index_crossentropy, hollow rate_index_log2 (log2 of the codebook size)",
    "identity": "pixels = rate_lossless, hollow rate_raw (24 bits per pixel)",
}


RATE_SHORT = {"kl": "KL fitted", "vq": "VQ cross-entropy"}
