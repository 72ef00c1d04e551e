"""Class-conditional synthesis: one learned token a class, taken in by cross-attention."""

from collections.abc import Mapping

from torch import Tensor, nn

from ldm.conditioning.contract import Condition, Conditioning, field_of
from ldm.errors import UserError


class ClassConditioning(Conditioning):
    """An embedding table of `classes` + 1 rows; row `classes` is the null class that guidance needs.

    `null_class=False` leaves that row out: the form of imported models that were never trained for guidance.

    Shapes: field "label" (N,) of integers in 0 ... classes (the last is the null class); context (N, 1, dim).
    Source: Rombach et al. 2022, appendix E.2.1 (a single learned embedding layer); Ho and Salimans 2022 (null class).
    """

    fields = ("label",)
    tokens = 1
    concat_channels = 0

    def __init__(self, classes: int, dim: int, null_class: bool = True) -> None:
        super().__init__()
        if classes < 1:
            raise UserError(f"class conditioning needs data with at least one class, not {classes}")
        self.classes = classes
        self.context_dim = dim
        self.embedding = nn.Embedding(classes + int(null_class), dim)

    @property
    def null_class(self) -> int:
        """The label that means "no class".

        Raises: UserError where the model has none.
        """
        if self.embedding.num_embeddings == self.classes:
            raise UserError(
                "this class-conditional model was trained without a null class, so it can neither be guided nor have "
                "its labels dropped: use guidance.scale=1"
            )
        return self.classes

    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """One token an item: label (N,) to context (N, 1, dim).

        Raises: UserError for labels that are missing, no integers, or out of range (on a GPU, where reading them would
        stall every step, the embedding itself asserts the range).
        """
        label = field_of(fields, "label")
        if label.dim() != 1 or label.is_floating_point() or label.is_complex():
            raise UserError(
                f"class labels must be one integer an image, but the field 'label' holds {label.dtype} of shape "
                f"{tuple(label.shape)}: give class indices"
            )
        if label.device.type == "cpu" and len(label) > 0:
            low, high = int(label.min()), int(label.max())
            if low < 0 or high >= self.embedding.num_embeddings:
                raise UserError(
                    f"class label {low if low < 0 else high} is out of range: the model knows classes 0 to "
                    f"{self.classes - 1}, check the labels of the data or of the request"
                )
        return Condition(context=self.embedding(label.long()).unsqueeze(1))

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, with the labels (N,) where `mask`, (N,), is true replaced by the null class; result as fields."""
        label = field_of(fields, "label")
        return {**fields, "label": label.masked_fill(mask, self.null_class)}
