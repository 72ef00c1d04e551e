"""The class table of an exported class-conditional model."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config


class ClassEmbedding(ModelMixin, ConfigMixin):
    """One token a class for cross-attention; with `null_class` one row more, of index `classes`, for guidance."""

    @register_to_config
    def __init__(self, classes: int, dim: int, null_class: bool = True) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(classes + null_class, dim))

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """The token of each label. Shapes: labels (N,), result (N, 1, dim)."""
        return self.weight[labels][:, None]
