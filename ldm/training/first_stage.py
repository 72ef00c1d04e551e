"""Training of a first stage against its discriminator: a state that can be saved at any step, and a generator."""

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.data.contract import ImageCache
from ldm.first_stage.alignment import AlignmentTerm
from ldm.first_stage.components import images_to_start_from, start_from_components
from ldm.first_stage.contract import FirstStage, Reconstruction, ShapableFirstStage, TrainableFirstStage
from ldm.first_stage.discriminator import PatchDiscriminator
from ldm.first_stage.losses import FirstStageLoss, GeneratorTerms, OwnLoss, discriminator_loss
from ldm.first_stage.shaping import LatentBatch, LatentShaping, Views, views_at
from ldm.layers import Recomputable
from ldm.memory import give_back_unused, is_out_of_memory, moved
from ldm.metrics.codebook import code_counts, codebook_usage, perplexity
from ldm.randomness import generator
from ldm.ranks import ALONE, Part, Ranks, batch_mean, batch_sum, part_of_batch
from ldm.training.muon import Muon
from ldm.training.rate import learning_rate_factor
from ldm.training.step import StepReport

logger = logging.getLogger(__name__)
T = TypeVar("T")

ADAM_BETAS = (0.5, 0.9)  # the reference's, for autoencoder and discriminator
Weighted = tuple[float | Tensor, Tensor]
"""A term of the loss, behind its weight; both of shape ()."""

MUON_MOMENTUM = 0.9  # short trainings do not have the time for the usual 0.95


@dataclass(frozen=True)
class FirstStageSettings:
    """How long and how to train; `images` and `warm_up` count images seen.

    `adversarial_from` = share of the training after which the discriminator takes part. `matrix_rate` = rate of the
    autoencoder's convolutions under Muon; 0 = Adam for all weights, as in the reference. `from_components`: the first
    step is preceded by `ldm.first_stage.components`.
    """

    seed: int
    images: int
    batch: int
    learning_rate: float
    warm_up: int
    decay: str
    gradient_clip: float | None
    adversarial_from: float
    matrix_rate: float = 0
    from_components: bool = False

    @property
    def steps(self) -> int:
        """Optimiser steps, the last batch complete."""
        return -(-self.images // self.batch)

    def is_adversarial(self, step: int) -> bool:
        """Whether the discriminator may take part in a step, counted from 0."""
        return step >= self.adversarial_from * self.steps


class FirstStageTraining:
    """First stage, discriminator and both optimisers at one step; everything random at step k follows from (seed, k).

    `discriminator` None trains without adversarial term. `autocast` is the dtype networks compute in (None: float32).
    With `ranks` each process holds all of it, the same everywhere, and computes the gradients of its share of a batch.
    `shapings` of a `ShapableFirstStage` shape its latents; `smallest` is the smallest side of theirs that is decoded.
    `alignment`: what one of them adds to the loss, on the device.
    `recomputes`: whether memory did not suffice, so that activations are computed again in the backward pass.
    """

    def __init__(
        self,
        model: TrainableFirstStage,
        loss: FirstStageLoss | OwnLoss,
        discriminator: PatchDiscriminator | None,
        images: ImageCache,
        settings: FirstStageSettings,
        device: str,
        autocast: torch.dtype | None = None,
        ranks: Ranks = ALONE,
        shapings: Sequence[LatentShaping] = (),
        smallest: int = 1,
        alignment: AlignmentTerm | None = None,
    ) -> None:
        self.ranks = ranks
        ranks.check_batch(settings.batch)
        self.model, self.loss, self.discriminator = model, loss, discriminator
        self.images, self.settings, self.device, self.autocast = images, settings, device, autocast
        side = images.resolution // model.factor
        own = ranks.share(settings.batch)
        self.shapings, self.latents = shapings, LatentBatch(settings.batch, model.channels, side, smallest, own)
        self.alignment = alignment
        self.step = 0
        self.recomputes = False
        self._recomputable = [part for part in model.modules() if isinstance(part, Recomputable)]
        self.optimisers = self._optimisers(model)
        self.discriminator_optimiser = None if discriminator is None else self._adam(discriminator.parameters())

    @property
    def images_seen(self) -> int:
        """Images seen so far."""
        return self.step * self.settings.batch

    @property
    def is_adversarial(self) -> bool:
        """Whether the discriminator takes part in the next step."""
        return self._is_adversarial(self.step)

    def _is_adversarial(self, step: int) -> bool:
        return self.discriminator is not None and self.settings.is_adversarial(step)

    def kind(self, step: int) -> Hashable:
        """Steps of one kind cost the same: what takes part in them, and the sides of the latents that they decode."""
        return self._is_adversarial(step), self._views(step).sides

    def _views(self, step: int) -> Views:
        return views_at(self.shapings, self.latents, self.settings.seed, step)

    def advance(self) -> StepReport:
        """One step of the autoencoder and, once it takes part, of the discriminator."""
        s = self.settings
        factor = learning_rate_factor(self.images_seen, s.images, s.warm_up, s.decay)
        for optimiser in (*self.optimisers.values(), self.discriminator_optimiser):
            for group in optimiser.param_groups if optimiser else ():
                group["lr"] = group["full_rate"] * factor
        draw = generator(s.seed, "step", self.step)
        torch.manual_seed(self.ranks.seed(s.seed, "dropout", self.step))  # layers with dropout use the global stream
        if self.step == 0 and s.from_components:
            self._start_from_components()
        views = self._views(self.step)
        with part_of_batch(self.ranks, s.batch) as part:
            image = self._batch(part, draw)
            self._before_step(image, draw)
            values, reconstruction = self._autoencoder_step(image, views, part, draw)
            if self.is_adversarial:
                values["discriminator"] = self._discriminator_step(views.image(image), reconstruction, part)
        self.step += 1
        return StepReport(self.step, self.images_seen, self.ranks.mean_of(values, part.weight))

    def _batch(self, part: Part, draw: torch.Generator) -> Tensor:
        """This rank's images of the batch."""
        indices = torch.randint(len(self.images), (part.total,), generator=draw)[part.items]
        flip = (torch.rand(part.total, generator=draw) < 0.5)[part.items]
        return self.images.batch(indices, flip, self.device).to(memory_format=torch.channels_last)

    def _autoencoder_step(
        self, image: Tensor, views: Views, part: Part, draw: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        side = image.shape[-1] // self.model.factor
        shape = (part.total, self.model.channels, side, side)
        noise = moved(torch.randn(shape, generator=draw)[part.items], self.device)
        values, reconstruction = self._that_fits(lambda: self._gradients(image, noise, views))
        self.ranks.sum_gradients(self._trained(self.model), part.weight)
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(list(self._trained(self.model)), self.settings.gradient_clip)
        for optimiser in self.optimisers.values():
            optimiser.step()
        return values, reconstruction

    def _that_fits(self, gradients: Callable[[], T]) -> T:
        """What `gradients` gives; from where memory does not suffice, with activations that are computed again.

        The step is begun again with the same batch and noise, so that nothing changes but its time.
        Ranks are in sums together within it, which one alone cannot begin again.
        """
        if self.recomputes or self.ranks.count > 1 or not self._recomputable:
            return gradients()
        counted = [buffer.clone() for buffer in self._buffers()]
        dropout = torch.get_rng_state(), torch.cuda.get_rng_state() if self.device == "cuda" else None
        try:
            return gradients()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Only here are the tensors of the pass that failed, which the error held, no more.
        self.recompute()
        give_back_unused()
        logger.warning(
            "memory does not suffice for a step of %d images: from here on activations are computed again in the "
            "backward pass, which takes about a third longer and changes no number",
            self.settings.batch,
        )
        for buffer, before in zip(self._buffers(), counted, strict=True):
            buffer.copy_(before)
        torch.set_rng_state(dropout[0])
        if dropout[1] is not None:
            torch.cuda.set_rng_state(dropout[1])
        return gradients()

    def recompute(self) -> None:
        """From here on blocks of the first stage compute their activations again in the backward pass."""
        self.recomputes = True
        for block in self._recomputable:
            block.recompute = True

    def _buffers(self) -> Iterator[Tensor]:
        """What a forward pass may change, such as how often codes were used."""
        yield from self.model.buffers()
        if self.discriminator is not None:
            yield from self.discriminator.buffers()

    def _gradients(self, image: Tensor, noise: Tensor, views: Views) -> tuple[dict[str, Tensor], Tensor]:
        """Computes the gradients of what is trained beside the discriminator; the step's values and reconstruction."""
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
        with self._autocast():
            result = self._pass(image, noise, views)
            terms: GeneratorTerms = self.loss.generator_terms(
                views.image(image),
                result.image,
                result.regularisation,
                last_layer=self.model.last_layer,
                discriminator=self.discriminator if self.is_adversarial else None,
            )
            beside = {**self._beside(image, result, views), **self._aligned(image, result, terms)}
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        total = sum((weight * term for weight, term in beside.values()), terms.total)
        total.backward()
        values = {**terms.scalars(), "total": total.detach(), "loss": (terms.l1 + terms.perceptual).detach()}
        values |= {name: term.detach() for name, (_, term) in beside.items()}
        if result.indices is not None and self.model.codes is not None:
            counts = batch_sum(code_counts(result.indices, self.model.codes))
            values |= {"codebook_perplexity": perplexity(counts), "codebook_usage": codebook_usage(counts)}
        return values, result.image.detach()

    def _pass(self, image: Tensor, noise: Tensor, views: Views) -> Reconstruction:
        """A training pass; what shapes latents steps in between encoder and decoder."""
        if not self.shapings:
            found: Reconstruction = self.model(image, noise)
            return found
        assert isinstance(self.model, ShapableFirstStage)
        return self.model.forward_viewed(image, noise, views.latent)

    def _aligned(self, image: Tensor, result: Reconstruction, terms: GeneratorTerms) -> dict[str, Weighted]:
        """The weight and the misalignment of whole latents with a teacher's features of their images."""
        if self.alignment is None:
            return {}
        assert isinstance(self.model, ShapableFirstStage)
        assert result.whole is not None
        term, layer = self.alignment(result.whole, image), self.model.encoder_layer
        of_term = batch_mean(torch.autograd.grad(term, layer, retain_graph=True)[0])
        of_nll = batch_mean(terms.nll_gradient(result.image, layer))
        return {"alignment": (self.alignment.weight(of_nll, of_term), term)}

    def _beside(self, image: Tensor, result: Reconstruction, views: Views) -> dict[str, Weighted]:
        """The weights and the reconstruction losses of views that are decoded beside the latents, by name."""
        found: dict[str, Weighted] = {}
        for name, (weight, view) in views.beside.items():
            assert isinstance(self.model, ShapableFirstStage)
            assert isinstance(self.loss, FirstStageLoss)
            assert result.whole is not None
            again = self.model.decode_train(view.latent(result.whole))
            found[name] = weight, self.loss.reconstruction(view.image(image), again.image)
        return found

    def _discriminator_step(self, image: Tensor, reconstruction: Tensor, part: Part) -> Tensor:
        assert self.discriminator is not None
        assert self.discriminator_optimiser is not None
        self.discriminator.requires_grad_(True)
        # One pass a side, so that batch normalisation sees real and reconstructed images apart, as in the reference.
        with self._autocast():
            loss = discriminator_loss(self.discriminator(image), self.discriminator(reconstruction))
        self.discriminator_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.sum_gradients(self.discriminator.parameters(), part.weight)
        self.discriminator_optimiser.step()
        return loss.detach()

    def _start_from_components(self) -> None:
        count = len(self.images)
        looked_at = images_to_start_from(count, self.images.resolution, self.model.factor)
        indices = torch.randperm(count, generator=generator(self.settings.seed, "start"))[:looked_at]
        start_from_components(self.model, self.images.batch(indices).to(self.device), self.settings.seed)

    def _before_step(self, image: Tensor, draw: torch.Generator) -> None:
        """What the model does of itself; what Adam knew of weights that were set anew was of others."""
        for parameter, rows in self.model.before_step(image, self.step, self.settings.steps, draw).items():
            for name in ("exp_avg", "exp_avg_sq"):
                self.optimisers["adam"].state[parameter][name][rows] = 0

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, self.autocast, enabled=self.autocast is not None)

    def _trained(self, model: FirstStage) -> Iterator[nn.Parameter]:
        """What is trained beside the discriminator."""
        yield from model.parameters()
        if self.alignment is not None:
            yield from self.alignment.parameters()

    def _optimisers(self, model: FirstStage) -> dict[str, Optimizer]:
        """By name: Adam for all weights, or for biases, normalisations and codebook beside Muon."""
        rate = self.settings.matrix_rate
        if rate == 0:
            return {"adam": self._adam(self._trained(model))}
        convolutions = [weight for weight in self._trained(model) if weight.ndim == 4]
        others = [weight for weight in self._trained(model) if weight.ndim != 4]
        muon = Muon([{"params": convolutions, "full_rate": rate}], lr=rate, momentum=MUON_MOMENTUM)
        return {"muon": muon, "adam": self._adam(others)}

    def _adam(self, weights: Iterable[nn.Parameter]) -> torch.optim.Adam:
        rate = self.settings.learning_rate
        group = {"params": list(weights), "full_rate": rate}
        return torch.optim.Adam([group], lr=rate, betas=ADAM_BETAS, fused=True)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on bit for bit."""
        further: dict[str, Any] = {}
        if self.discriminator is not None and self.discriminator_optimiser is not None:
            further = {
                "discriminator": self.discriminator.state_dict(),
                "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
            }
        if self.alignment is not None:
            further["alignment"] = self.alignment.state_dict()
        if self.recomputes:
            further["recomputes"] = True
        optimisers = {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()}
        return {"step": self.step, "model": self.model.state_dict(), "optimisers": optimisers, **further}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.step = state["step"]
        if state.get("recomputes"):
            self.recompute()
        self.model.load_state_dict(state["model"])
        if self.alignment is not None:
            self.alignment.load_state_dict(state["alignment"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        if self.discriminator is not None and self.discriminator_optimiser is not None:
            self.discriminator.load_state_dict(state["discriminator"])
            self.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])


def train_first_stage(training: FirstStageTraining) -> Iterator[StepReport]:
    """Advances to the last step and yields after every one; a caller may stop, save, and start it again."""
    training.model.train()
    while training.step < training.settings.steps:
        yield training.advance()
