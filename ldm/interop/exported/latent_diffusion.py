"""Sampling with an exported latent diffusion model: class-conditional or not, at any scale of latents, or of pixels."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class LatentDiffusionPipeline(DiffusionPipeline):
    """z from noise by `scheduler` and `unet`; the image by `vqvae` of z / scaling_factor * latents_std + latents_mean.

    The latter two stand in the config of an AutoencoderKL, else (VQModel, pixels without `vqvae`) in model_index.json.
    """

    _optional_components = ["vqvae", "class_embedding"]  # noqa: RUF012

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        vqvae: Any = None,
        class_embedding: Any = None,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vqvae=vqvae, class_embedding=class_embedding)
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
        if (class_labels is None) != (self.class_embedding is None):
            raise ValueError("class_labels must be given to a class-conditional model, and to no other")
        labels = None if class_labels is None else torch.as_tensor(class_labels, device=self._execution_device)
        side = self.unet.config.sample_size
        shape = (batch_size if labels is None else len(labels), self.unet.config.out_channels, side, side)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
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
        if labels is None:
            return self.unet(z, step).sample
        told = self.unet(z, step, self.class_embedding(labels)).sample
        if guidance_scale == 1:
            return told
        if not self.class_embedding.config.null_class:
            raise ValueError("the model was trained without a null class: use guidance_scale=1")
        null = torch.full_like(labels, self.class_embedding.config.classes)
        empty = self.unet(z, step, self.class_embedding(null)).sample
        return empty + guidance_scale * (told - empty)

    def _decoded(self, z: torch.Tensor) -> torch.Tensor:
        configs = [self.config] if self.vqvae is None else [self.vqvae.config, self.config]
        z = z / (configs[0].get("scaling_factor") or 1.0)
        for config in configs:
            if config.get("latents_std") is not None:
                shape = (1, -1, 1, 1)
                z = z * torch.tensor(config["latents_std"]).to(z).view(shape)
                z = z + torch.tensor(config["latents_mean"]).to(z).view(shape)
        return z if self.vqvae is None else self.vqvae.decode(z).sample
