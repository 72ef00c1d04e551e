"""Sampling with an exported latent diffusion model: class-conditional or not, at any scale of latents, or of pixels."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class LatentDiffusionPipeline(DiffusionPipeline):
    """z from noise by `scheduler` and `unet` or `transformer`, which embeds classes itself; then the image.

    That is given by `vqvae` of z / scaling_factor * latents_std + latents_mean. The latter two stand in the config of
    an AutoencoderKL, else (VQModel, pixels without `vqvae`) in model_index.json.
    """

    _optional_components = ["unet", "transformer", "vqvae", "class_embedding"]  # noqa: RUF012

    def __init__(
        self,
        scheduler: Any,
        unet: Any = None,
        transformer: Any = None,
        vqvae: Any = None,
        class_embedding: Any = None,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet, transformer=transformer, scheduler=scheduler, vqvae=vqvae, class_embedding=class_embedding
        )
        self.register_to_config(latents_mean=latents_mean, latents_std=latents_std)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: Sequence[int] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
    ) -> Any:
        """Images; `output_type` "pil", "np", or "latent" for z. A class-conditional model needs `class_labels`.

        Shapes: class_labels (N,), latents and z (N, C, h, w); images as "np" (N, H, W, 3).
        """
        if (class_labels is None) != (self._classes == 0):
            raise ValueError("class_labels must be given to a class-conditional model, and to no other")
        labels = None if class_labels is None else torch.as_tensor(class_labels, device=self._execution_device)
        network = self.unet or self.transformer
        side = network.config.sample_size
        shape = (batch_size if labels is None else len(labels), network.config.out_channels, side, side)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=network.dtype)
        z = latents * self.scheduler.init_noise_sigma
        self.scheduler.set_timesteps(num_inference_steps)
        options = {"eta": eta} if "eta" in inspect.signature(self.scheduler.step).parameters else {}
        for step in self.progress_bar(self.scheduler.timesteps):
            prediction = self._prediction(self.scheduler.scale_model_input(z, step), step, labels, guidance_scale)
            z = self.scheduler.step(prediction, step, z, **options).prev_sample
        if output_type == "latent":
            return ImagePipelineOutput(images=z)
        image = (self._decoded(z) / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(image) if output_type == "pil" else image)

    def _prediction(
        self, z: torch.Tensor, step: torch.Tensor, labels: torch.Tensor | None, guidance_scale: float
    ) -> torch.Tensor:
        told = self._told(z, step, labels)
        if labels is None or guidance_scale == 1:
            return told
        if self.class_embedding is not None and not self.class_embedding.config.null_class:
            raise ValueError("the model was trained without a null class: use guidance_scale=1")
        empty = self._told(z, step, torch.full_like(labels, self._classes))
        return empty + guidance_scale * (told - empty)

    @property
    def _classes(self) -> int:
        """How many the model is told; 0: none."""
        if self.transformer is not None:
            table = self.transformer.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight
            return self.transformer.config.num_embeds_ada_norm if table.any() else 0
        return 0 if self.class_embedding is None else self.class_embedding.config.classes

    def _told(self, z: torch.Tensor, step: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The prediction with these labels."""
        if self.transformer is not None:
            given = torch.zeros(len(z), dtype=torch.long, device=z.device) if labels is None else labels
            return self.transformer(z, step.to(z.device).expand(len(z)), class_labels=given).sample
        return self.unet(z, step, *(() if labels is None else (self.class_embedding(labels),))).sample

    def _decoded(self, z: torch.Tensor) -> torch.Tensor:
        configs = [self.config] if self.vqvae is None else [self.vqvae.config, self.config]
        z = z / (configs[0].get("scaling_factor") or 1.0)
        for config in configs:
            if config.get("latents_std") is not None:
                shape = (1, -1, 1, 1)
                z = z * torch.tensor(config["latents_std"]).to(z).view(shape)
                z = z + torch.tensor(config["latents_mean"]).to(z).view(shape)
        return z if self.vqvae is None else self.vqvae.decode(z).sample
