"""Text and layout: what is read, what is masked, and what dropping leaves."""

import pytest
import torch

from ldm.conditioning import BoxTokenConditioning, FrozenTextConditioning, LayoutConditioning, TextConditioning
from ldm.conditioning.transformer import TokenTransformer
from ldm.denoiser import UNet
from ldm.errors import UserError
from ldm.pretrained.text import bert_tokeniser, pretrained_text
from ldm.pretrained.torchvision_ops import ensure_torchvision

CAT, DOG = 0, 2


def layout(**changes):
    torch.manual_seed(0)
    return LayoutConditioning(**{"classes": 3, "boxes": 4, "grid": 10, "width": 8, "depth": 2, **changes})


def boxes(*rows):
    return torch.tensor([*rows, *[[-1.0] * 5] * (4 - len(rows))])[None]


def test_a_box_is_its_class_and_two_corners_on_the_grid():
    conditioning = layout()
    tokens, seen = conditioning.sequence(boxes([CAT, 0.0, 0.0, 1.0, 1.0], [DOG, 0.3, 0.6, 0.34, 0.96]))
    places = 4  # after "the whole picture" and three classes
    assert tokens[0, :7].tolist() == [0, 1, places, places + 99, 3, places + 53, places + 93]
    assert seen[0].tolist() == [True] * 7 + [False] * 6
    assert int(tokens.max()) < 104


def test_padding_changes_nothing():
    """Not the tokens of boxes that are there, and not what a network with cross-attention makes of them."""
    few, many = layout(boxes=2), layout(boxes=4)
    position = many.transformer.position.weight[:7]
    few.transformer.load_state_dict({**many.transformer.state_dict(), "position.weight": position})
    given = boxes([CAT, 0.1, 0.2, 0.5, 0.6], [DOG, 0.3, 0.6, 0.9, 0.9])
    short, long = few({"boxes": given[:, :2]}), many({"boxes": given})
    torch.testing.assert_close(long.context[:, :7], short.context)
    unet = UNet(
        in_channels=2,
        out_channels=2,
        model_channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        latent_side=4,
        attention_sides=(4,),
        num_heads=2,
        context_dim=8,
    )
    for parameter in unet.parameters():
        parameter.data.normal_(0, 0.1)
    x, index = torch.randn(1, 2, 4, 4), torch.tensor([30.0])
    ends = [unet(x, index, one.context, context_mask=one.context_mask) for one in (short, long)]
    torch.testing.assert_close(*ends)
    assert not torch.allclose(unet(x, index, long.context), ends[1]), "without the mask the padding is seen"


def test_dropping_a_layout_leaves_the_leading_token():
    conditioning = layout()
    fields = {"boxes": torch.cat([boxes([CAT, 0.1, 0.2, 0.5, 0.6]), boxes([DOG, 0.0, 0.0, 0.4, 0.4])])}
    dropped = conditioning.drop(fields, torch.tensor([False, True]))
    condition = conditioning(dropped)
    assert condition.context_mask.sum(1).tolist() == [4, 1]
    torch.testing.assert_close(condition.context[0], conditioning(fields).context[0])
    torch.testing.assert_close(condition.context[1], conditioning.null(fields, 2).context[1])


def test_boxes_that_cannot_be_meant_are_refused():
    with pytest.raises(UserError, match="box class 3 is out of range"):
        layout()({"boxes": boxes([3, 0.1, 0.1, 0.2, 0.2])})
    with pytest.raises(UserError, match=r"reads 4 boxes .* shape \(1, 2, 5\)"):
        layout()({"boxes": torch.zeros(1, 2, 5)})


def box_tokens(vocabulary, length):
    torch.manual_seed(0)
    return BoxTokenConditioning(TokenTransformer(vocabulary, length, 8, 1))


def test_boxes_are_the_tokens_of_the_reference():
    """Worked by hand: 6 x 6 places in a vocabulary of 40, whose token 39 pads; the crop is the whole picture."""
    given = torch.tensor([[[0, 0.0, 0.0, 1.0, 1.0], [30, 0.2, 0.4, 0.58, 1.0], [-1.0] * 5]])
    described = [0, 0, 35, 30, 2 * 6 + 1, 5 * 6 + 3, 39, 39, 39]
    assert box_tokens(40, 11).sequence(given)[0].tolist() == [*described, 0, 35]
    assert box_tokens(40, 9).sequence(given)[0].tolist() == described  # without the crop


def test_the_released_layout_models_sequence_is_that_of_its_sizes():
    """8192 tokens make 90 x 90 places; half a place rounds to the even one, in the reference as here."""
    conditioning = box_tokens(8192, 92)
    assert (conditioning.boxes, conditioning.grid, conditioning.classes) == (30, 90, 8191)
    given = torch.full((1, 30, 5), -1.0)
    given[0, 0] = torch.tensor([300, 0.25, 0.5, 0.75, 0.9])
    assert conditioning.sequence(given)[0].tolist() == [300, 44 * 90 + 22, 80 * 90 + 67, *[8191] * 87, 0, 8099]


def test_box_tokens_are_read_without_a_mask_and_an_image_without_boxes_is_the_null_condition():
    conditioning = box_tokens(40, 11)
    fields = {"boxes": torch.tensor([[[3, 0.0, 0.0, 0.4, 1.0], [-1.0] * 5, [-1.0] * 5]] * 2)}
    tokens = torch.tensor([[3, 0, 32, *[39] * 6, 0, 35], [*[39] * 9, 0, 35]])
    condition = conditioning(conditioning.drop(fields, torch.tensor([False, True])))
    assert condition.context_mask is None
    assert torch.equal(condition.context, conditioning({"tokens": tokens}).context)
    assert torch.equal(condition.context, conditioning.transformer(tokens))
    assert torch.equal(condition.context[1:], conditioning.null(fields, 2).context[:1])
    assert not torch.allclose(condition.context[0], condition.context[1])


def test_boxes_that_a_vocabulary_cannot_hold_are_refused():
    conditioning = box_tokens(40, 11)
    with pytest.raises(UserError, match="box class 39 is out of range: the model knows classes 0 to 38"):
        conditioning({"boxes": torch.tensor([[[39, 0.1, 0.1, 0.2, 0.2]] * 3])})
    with pytest.raises(UserError, match=r"reads 3 boxes .* shape \(1, 2, 5\)"):
        conditioning({"boxes": torch.zeros(1, 2, 5)})
    with pytest.raises(ValueError, match="sequences of 10 tokens"):
        box_tokens(40, 10)


def test_word_pieces_are_berts():
    tokeniser = bert_tokeniser(8)
    tokens = tokeniser(["A Red apple", "", "one two three four five six seven eight nine"])
    assert tokens[0].tolist() == [101, 1037, 2417, 6207, 102, 0, 0, 0]
    assert tokens[1].tolist() == tokeniser.null.tolist() == [101, 102, 0, 0, 0, 0, 0, 0]
    assert tokens[2, -1] == 102, "a caption too long is cut, and still ends"
    assert tokeniser.vocabulary == 30522


def test_dropped_captions_are_the_empty_caption():
    tokeniser = bert_tokeniser(6)
    conditioning = TextConditioning(tokeniser.vocabulary, tokeniser.null, 8, 1)
    fields = {"tokens": tokeniser(["a cat", "a dog"])}
    dropped = conditioning.drop(fields, torch.tensor([True, False]))
    assert torch.equal(dropped["tokens"], tokeniser(["", "a dog"]))
    assert torch.equal(fields["tokens"], tokeniser(["a cat", "a dog"]))
    torch.testing.assert_close(conditioning(dropped).context[:1], conditioning.null(fields, 2).context[:1])
    with pytest.raises(UserError, match=r"reads 6 whole numbers an image.*\(1, 4\)"):
        conditioning({"tokens": torch.zeros(1, 4).long()})
    with pytest.raises(UserError, match="token 30522 is outside"):
        conditioning({"tokens": torch.full((1, 6), 30522)})


@pytest.fixture
def encoder_folder(tmp_path):
    """A small BERT with random weights and the shipped vocabulary, as `save_pretrained` writes them."""
    ensure_torchvision()
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(**sizes)).save_pretrained(tmp_path)
    bert_tokeniser(8).tokeniser.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.long
def test_a_pretrained_encoder_is_read_frozen_and_stays_outside(encoder_folder):
    text = pretrained_text(encoder_folder, 8, "cpu")
    conditioning = FrozenTextConditioning(
        text.encode, text.tokeniser.vocabulary, text.tokeniser.null, text.width, text.tokeniser.padding
    )
    assert conditioning.context_dim == 16
    assert not list(conditioning.parameters())
    assert not conditioning.state_dict()
    condition = conditioning({"tokens": text.tokeniser(["a cat", ""])})
    assert condition.context_mask.sum(1).tolist() == [4, 2]
    # What is said of a caption does not depend on the padding behind it.
    longer = pretrained_text(encoder_folder, 11, "cpu")
    torch.testing.assert_close(longer.encode(longer.tokeniser(["a cat"]))[:, :4], condition.context[:1, :4])
    assert not condition.context.requires_grad


def test_a_folder_without_encoder_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="is no transformers folder with a text encoder") as caught:
        pretrained_text(tmp_path, 8, "cpu")
    assert "\n" not in str(caught.value)
