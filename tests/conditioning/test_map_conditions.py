"""Label maps, low-resolution images and masked images as channels beside the latent; combinations."""

import pytest
import torch
import torch.nn.functional as F

from ldm.conditioning import (
    ClassConditioning,
    CombinedConditioning,
    InpaintingConditioning,
    LayoutConditioning,
    SemanticConditioning,
    SuperResolutionConditioning,
    Unconditional,
)
from ldm.errors import UserError


def test_a_label_map_is_the_share_of_each_class_mapped_to_channels():
    conditioning = SemanticConditioning(classes=3, channels=2, factor=2)
    labels = torch.tensor([[[0, 0, 1, 2], [0, 0, 2, 2], [1, 1, 7, -1], [1, 1, 255, 0]]])
    concat = conditioning({"semantic": labels}).concat
    weight = conditioning.mapper.weight[..., 0, 0]
    shares = torch.tensor([[[1.0, 0, 0], [0, 0.25, 0.75]], [[0, 1.0, 0], [0.25, 0, 0]]])
    torch.testing.assert_close(concat[0], torch.einsum("yxc,oc->oyx", shares, weight))
    dropped = conditioning.drop({"semantic": labels}, torch.tensor([True]))
    assert not conditioning(dropped).concat.any()
    with pytest.raises(UserError, match="divisible by 2"):
        conditioning({"semantic": torch.zeros(1, 3, 4).long()})
    with pytest.raises(UserError, match=r"torch\.float32"):
        conditioning({"semantic": torch.zeros(1, 4, 4)})


@pytest.mark.parametrize(("scale", "factor"), [(2, 8), (4, 4), (8, 2), (4, 1), (2, 2)])
def test_a_low_resolution_image_meets_the_latents_sides(scale, factor):
    conditioning = SuperResolutionConditioning(scale, factor)
    columns = torch.linspace(-1, 1, 48 // scale).expand(2, 3, 32 // scale, -1)  # of 32 x 48 pixels
    image = columns + 0.05 * torch.rand(2, 3, 32 // scale, 48 // scale)
    concat = conditioning({"low_resolution": image}).concat
    assert concat.shape == (2, conditioning.concat_channels, 32 // factor, 48 // factor)
    if scale <= factor:
        assert concat.flatten(1).sort(1).values.equal(image.flatten(1).sort(1).values), "no pixel is lost"
    else:
        torch.testing.assert_close(F.avg_pool2d(concat, scale // factor), image, atol=0.1, rtol=0)
    dropped = conditioning.drop({"low_resolution": image}, torch.tensor([True, False]))["low_resolution"]
    assert not dropped[0].any()
    assert torch.equal(dropped[1], image[1])


def test_inpainting_tells_what_is_known_and_where():
    seen = []

    def encode(image):
        seen.append(image)
        return F.avg_pool2d(image, 2)[:, :2]

    conditioning = InpaintingConditioning(encode, channels=2, factor=2)
    assert conditioning.concat_channels == 3
    image, mask = torch.rand(2, 3, 4, 6), torch.zeros(2, 1, 4, 6)
    mask[0, 0, 0, :3] = 1
    fields = {"image": image, "mask": mask}
    concat = conditioning(fields).concat
    assert not seen[0][0, :, 0, :3].any(), "the encoder must not see what the mask covers"
    assert torch.equal(seen[0][1], image[1])
    assert concat[0, 2, 0].tolist() == [0.0, -0.5, -1.0]
    assert torch.equal(concat[:, :2], encode(image * (1 - mask)))
    null = conditioning.null(fields, 2).concat
    assert torch.equal(null, torch.cat([torch.zeros(2, 2, 2, 3), torch.ones(2, 1, 2, 3)], dim=1))
    assert not list(conditioning.parameters())


def test_a_combination_is_its_parts_side_by_side():
    parts = {
        "class": ClassConditioning(classes=5, dim=7),
        "layout": LayoutConditioning(classes=2, boxes=1, grid=5, width=7, depth=1),
        "semantic": SemanticConditioning(classes=3, channels=2, factor=1),
        "superres": SuperResolutionConditioning(scale=2, factor=1),
    }
    combined = CombinedConditioning(parts)
    assert (combined.tokens, combined.context_dim, combined.concat_channels) == (5, 7, 5)
    assert combined.fields == ("label", "boxes", "semantic", "low_resolution")
    fields = {
        "label": torch.tensor([3, 1]),
        "boxes": torch.tensor([[[0, 0.1, 0.1, 0.5, 0.5]], [[-1.0] * 5]]),
        "semantic": torch.randint(3, (2, 4, 4)),
        "low_resolution": torch.rand(2, 3, 2, 2),
    }
    condition = combined(fields)
    alone = {name: part(fields) for name, part in parts.items()}
    assert torch.equal(condition.context, torch.cat([alone["class"].context, alone["layout"].context], dim=1))
    assert condition.context_mask.tolist() == [[True] * 5, [True, True, False, False, False]]
    assert torch.equal(condition.concat, torch.cat([alone["semantic"].concat, alone["superres"].concat], dim=1))
    null = combined.null(fields, 2)
    for name, part in parts.items():
        expected = part.null(fields, 2)
        if expected.context is not None:
            found = null.context[:, :1] if name == "class" else null.context[:, 1:]
            assert torch.equal(found, expected.context)
    placeholder = combined.placeholder(2, (4, 4))
    assert placeholder.context.shape == condition.context.shape
    assert placeholder.concat.shape == condition.concat.shape


def test_parts_of_different_widths_cannot_be_combined():
    parts = {"class": ClassConditioning(2, 8), "layout": LayoutConditioning(2, 1, 5, 16, 1)}
    with pytest.raises(UserError, match=r"one width, not conditioning.class.dim=8, conditioning.layout.dim=16"):
        CombinedConditioning(parts)
    assert CombinedConditioning({"none": Unconditional()}).context_dim is None
