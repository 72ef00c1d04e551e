"""What the reference's released first stages were trained with, in the words of this program's settings.

Source: CompVis/latent-diffusion@a506df57: models/first_stage_models/<name>/config.yaml (sizes, batch of one GPU,
disc_start, disc_weight, disc_num_layers), README.md "Pretrained Autoencoding Models" (steps), and the defaults of
ldm/modules/losses/contperceptual.py, taming's losses/vqperceptual.py and vector quantiser (perceptual network, weights,
`legacy`, codes that are never revived), main.py (constant rate, 4.5e-6 times the batch), the discriminator of
taming/modules/discriminator (64 channels, batch normalisation, 3 layers).

The reference counts steps from 0, one a batch for both optimisers (pytorch-lightning 1.4.2, environment.yaml), and its
discriminator takes part from step disc_start on (taming's `adopt_weight`: not while global_step < threshold).
"""

from dataclasses import dataclass

RATE = 4.5e-6
"""Times the batch."""


@dataclass(frozen=True)
class Released:
    """One released model: sizes, steps, batch, and discriminator (the first step it takes part in, weight, layers)."""

    regulariser: str
    f: int
    channels: int
    codes: int | None
    ch_mult: tuple[int, ...]
    attention_sides: tuple[int, ...]
    steps: int
    batch: int
    start: int
    weight: float
    layers: int
    mid_attention: bool = True


RELEASED = {
    "kl-f4": Released("kl", 4, 3, None, (1, 2, 4), (), 176991, 10, 50001, 0.5, 3),
    "kl-f8": Released("kl", 8, 4, None, (1, 2, 4, 4), (), 246803, 4, 50001, 0.5, 3),
    "kl-f16": Released("kl", 16, 16, None, (1, 1, 2, 2, 4), (16,), 442998, 6, 50001, 0.5, 3),
    "kl-f32": Released("kl", 32, 64, None, (1, 1, 2, 2, 4, 4), (16, 8), 406763, 6, 50001, 0.5, 3),
    "vq-f4": Released("vq", 4, 3, 8192, (1, 2, 4), (), 533066, 8, 0, 0.75, 3),
    "vq-f4-noattn": Released("vq", 4, 3, 8192, (1, 2, 4), (), 658131, 8, 11, 0.75, 3, mid_attention=False),
    "vq-f8": Released("vq", 8, 4, 16384, (1, 2, 2, 4), (32,), 971043, 10, 1, 0.6, 2),
    "vq-f8-n256": Released("vq", 8, 4, 256, (1, 2, 2, 4), (32,), 1608649, 10, 250001, 0.75, 3),
    "vq-f16": Released("vq", 16, 8, 16384, (1, 1, 2, 2, 4), (16,), 1101166, 14, 250001, 0.75, 2),
}
