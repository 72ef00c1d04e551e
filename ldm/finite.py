"""Numbers that are none (NaN, infinite) end here: no image, feature, code or score is made of them."""

from torch import Tensor

from ldm.errors import UserError


class NotFiniteError(UserError):
    """A network gave numbers that are none."""


def require_finite(values: Tensor, network: str, what: str = "images") -> Tensor:
    """The values as they are, of any shape (N, ...), images first.

    Raises: NotFiniteError, which names the network and how many of the images are concerned.
    """
    if not values.isfinite().all():
        bad = int((~values.isfinite()).reshape(len(values), -1).any(1).sum())
        raise NotFiniteError(
            f"{network} gives numbers that are none (NaN or infinite) for {bad} of {len(values)} {what}"
        )
    return values
