"""What the reference's released first stages were trained with, in the words of this program's settings.

Source: CompVis/latent-diffusion@a506df57: models/first_stage_models/<name>/config.yaml (batch of one GPU, disc_start,
disc_weight, disc_num_layers), README.md "Pretrained Autoencoding Models" (steps), and the defaults of
ldm/modules/losses/contperceptual.py, taming's losses/vqperceptual.py and vector quantiser (perceptual network, weights,
`legacy`, codes that are never revived), main.py (constant rate, 4.5e-6 times the batch), the discriminator of
taming/modules/discriminator (64 channels, batch normalisation).
"""

from dataclasses import dataclass

RATE = 4.5e-6
"""Times the batch."""


@dataclass(frozen=True)
class Released:
    """One released model: its steps, batch, and discriminator (the step at which it starts, weight, layers)."""

    regulariser: str
    f: int
    steps: int
    batch: int
    start: int
    weight: float
    layers: int


RELEASED = {
    "kl-f4": Released("kl", 4, 176991, 10, 50001, 0.5, 3),
    "kl-f8": Released("kl", 8, 246803, 4, 50001, 0.5, 3),
    "kl-f16": Released("kl", 16, 442998, 6, 50001, 0.5, 3),
    "kl-f32": Released("kl", 32, 406763, 6, 50001, 0.5, 3),
    "vq-f4": Released("vq", 4, 533066, 8, 0, 0.75, 3),
    "vq-f8": Released("vq", 8, 971043, 10, 1, 0.6, 2),
    "vq-f16": Released("vq", 16, 1101166, 14, 250001, 0.75, 2),
}
