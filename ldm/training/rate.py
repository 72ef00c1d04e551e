"""Learning-rate rule."""

import math


def learning_rate_factor(images_seen: int, total: int, warm_up: int, decay: str = "constant") -> float:
    """Linear warm-up over `warm_up` images, then constant, or a half cosine down to a hundredth at `total`.

    Raises: ValueError for a decay other than "constant" and "cosine".
    """
    if decay not in ("constant", "cosine"):
        raise ValueError(f"learning-rate decay '{decay}' is none of constant, cosine")
    rising = min(1.0, (images_seen + 1) / max(warm_up, 1))
    if decay == "constant":
        return rising
    progress = min(1.0, images_seen / max(total, 1))
    return rising * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
