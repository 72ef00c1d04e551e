"""The first stage with a codebook (VQ-reg), the quantiser standing in the decoder.

Source: van den Oord et al., arXiv 1711.00937; Rombach et al., arXiv 2112.10752, section 3.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.first_stage.coder import Coders, ImageDecoder, ImageEncoder
from ldm.first_stage.contract import Reconstruction, at_least_float32
from ldm.first_stage.quantised import MOST_CODES, QuantisedFirstStage, Quantiser, labels_of_codes
from ldm.metrics.codebook import code_counts
from ldm.parts import option
from ldm.ranks import batch_sum, whole_batch

DISTANCES_AT_ONCE = 2**24
"""Distances held in memory at a time (64 MiB in float32)."""

REVIVE_UNTIL: Final = 0.8
"""Share of the training after which codes are left alone, so that the last revived still settle."""


def _rows(latents: Tensor) -> Tensor:
    """(N, C, h, w) to (N h w, C)."""
    return latents.permute(0, 2, 3, 1).flatten(0, 2)


class VectorQuantiser(Quantiser):
    """A codebook of `codes` vectors of `channels`.

    `beta` weighs the commitment term; with `legacy` it stands on the codebook term instead, as in the code the paper's
    models were trained with. All state is the parameter `codebook` and the buffer `usage`, how often each code was
    counted since the last `revive_dead_codes`.
    """

    usage: Tensor

    def __init__(self, codes: int, channels: int, beta: float, legacy: bool) -> None:
        super().__init__()
        self.beta = beta
        self.legacy = legacy
        self.codebook = nn.Parameter(torch.empty(codes, channels).uniform_(-1.0 / codes, 1.0 / codes))
        self.register_buffer("usage", torch.zeros(codes, dtype=torch.int64))

    @property
    def codes(self) -> int:
        """Number of codes."""
        return self.codebook.shape[0]

    @property
    def channels(self) -> int:
        """Length of a code vector."""
        return self.codebook.shape[1]

    @torch.no_grad()
    def nearest(self, raw: Tensor, distances_at_once: int = DISTANCES_AT_ONCE) -> Tensor:
        """The number of the nearest code at each position of (N, C, h, w); shape (N, h, w), int64.

        Distances are computed in float32 at least, a chunk of the positions at a time.
        """
        codebook = at_least_float32(self.codebook)
        rows = at_least_float32(_rows(raw)).to(codebook.dtype)
        part = max(1, distances_at_once // self.codes)
        # By differences, not by a matrix product, which may run in TF32 and cancels where latents lie far from zero.
        exact = "donot_use_mm_for_euclid_dist"
        with torch.autocast(raw.device.type, enabled=False):
            indices = [torch.cdist(chunk, codebook, compute_mode=exact).argmin(1) for chunk in rows.split(part)]
        return torch.cat(indices).view(raw.shape[0], *raw.shape[2:])

    def embed(self, indices: Tensor) -> Tensor:
        """The code vectors (N, C, h, w) of indices (N, h, w)."""
        return F.embedding(indices, self.codebook).permute(0, 3, 1, 2)

    def loss(self, raw: Tensor, quantised: Tensor) -> Tensor:
        """Codebook term |sg(z) - e|^2 plus commitment term |z - sg(e)|^2, one weighted by beta; mean over elements.

        Shapes: raw and quantised (N, C, h, w); result (). Source: arXiv 1711.00937, equation 3.
        """
        codebook = F.mse_loss(quantised, raw.detach())
        commitment = F.mse_loss(raw, quantised.detach())
        return self.beta * codebook + commitment if self.legacy else codebook + self.beta * commitment

    def penalties(self, raw: Tensor, quantised: Tensor) -> dict[str, Tensor]:
        """{"codebook"}: both terms of `loss`. Shapes: as there."""
        return {"codebook": self.loss(raw, quantised)}

    @torch.no_grad()
    def count(self, indices: Tensor) -> None:
        """Adds the codes in `indices`, of any shape, to `usage`, (codes,)."""
        self.usage += batch_sum(code_counts(indices, self.codes))

    @torch.no_grad()
    def initialise(self, latents: Tensor, generator: torch.Generator) -> None:
        """Sets every code to a position of `latents` (N, C, h, w) drawn by `generator`, each once while they last."""
        self._replace(torch.ones(self.codes, dtype=torch.bool, device=latents.device), latents, generator)

    @torch.no_grad()
    def revive_dead_codes(self, latents: Tensor, generator: torch.Generator, threshold: int = 1) -> Tensor:
        """Moves codes counted fewer than `threshold` times since the last call to positions of `latents`.

        `latents` (N, C, h, w) are encodings before quantisation; `generator` lives on the CPU, so that devices agree.
        Returns the mask (codes,) of the codes moved, whose optimiser state no longer applies.
        """
        dead = self.usage < threshold
        self._replace(dead, latents, generator)
        return dead

    def _replace(self, replaced: Tensor, latents: Tensor, generator: torch.Generator) -> None:
        rows = _rows(latents)
        order = torch.randperm(len(rows), generator=generator)
        picked = order[torch.arange(int(replaced.sum())) % len(rows)].to(rows.device)
        self.codebook[replaced] = rows[picked].to(self.codebook.dtype)
        self.usage.zero_()


class VQFirstStage(QuantisedFirstStage):
    """Quantises to a codebook that is trained.

    `revive_every`: training steps between revivals of codes that were not used since the last, 0 = never.
    """

    @dataclass(frozen=True)
    class Options:
        """What a VQ model has beside its coder."""

        codes: int = option(low=1, high=MOST_CODES, help="size of the codebook")
        weight: float = option(1.0, low=0, help="weight of the codebook and commitment terms")
        beta: float = option(0.25, low=0, help="weight of the commitment term within them")
        legacy: bool = option(False, help="beta on the codebook term, as the reference trained its models")
        revive_every: int = option(50, low=0, unit="steps", help="between revivals of unused codes; 0 = never")

    regulariser = "vq"
    labels = labels_of_codes("VQ")
    group = "codebook"
    penalties: ClassVar[Mapping[str, str]] = {"codebook": "weight"}
    quantiser: VectorQuantiser

    def __init__(
        self, encoder: ImageEncoder, decoder: ImageDecoder, quantiser: VectorQuantiser, revive_every: int = 0
    ) -> None:
        super().__init__(encoder, decoder, quantiser)
        self.revive_every = revive_every

    @classmethod
    def build(cls, coders: Coders, channels: int, options: Any) -> Self:
        """With a codebook of the options."""
        encoder, decoder = coders.make()
        quantiser = VectorQuantiser(options.codes, channels, options.beta, options.legacy)
        return cls(encoder, decoder, quantiser, options.revive_every)

    def first_decoded(self, latent: Tensor) -> Tensor:
        """The latent itself, which codes are near once they began. Shapes: as in the contract."""
        return latent

    def decode_train(self, raw: Tensor) -> Reconstruction:
        """Decodes the codes with the straight-through gradient; training counts usage. Shapes: as in the contract."""
        result = super().decode_train(raw)
        if self.training:
            assert result.indices is not None
            self.quantiser.count(result.indices)
        return result

    @torch.no_grad()
    def before_step(self, image: Tensor, step: int, steps: int, draw: torch.Generator) -> Mapping[nn.Parameter, Tensor]:
        """Starts the codebook on encodings of the first batch, and now and then moves unused codes to encodings.

        Shapes: as in the contract; the mask is (codes,).
        """
        if step == 0:
            self.quantiser.initialise(whole_batch(self.encode(image)), draw)
        elif self.revive_every > 0 and step % self.revive_every == 0 and step < REVIVE_UNTIL * steps:
            dead = self.quantiser.revive_dead_codes(whole_batch(self.encode(image)), draw)
            return {self.quantiser.codebook: dead}
        return {}
