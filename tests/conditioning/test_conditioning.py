"""The condition of a batch, the class embedding and the null condition."""

import pytest
import torch

from ldm.conditioning import ClassConditioning, Condition, Unconditional
from ldm.denoiser import UNet
from ldm.errors import UserError


def test_each_class_has_its_row_of_the_table_as_one_token():
    conditioning = ClassConditioning(classes=5, dim=7)
    label = torch.tensor([3, 0, 5])
    condition = conditioning({"label": label, "caption": torch.zeros(3)})
    assert condition.concat is None
    assert condition.context.shape == (3, 1, 7)
    assert torch.equal(condition.context[:, 0], conditioning.embedding.weight[label])


def test_drop_masks_only_the_masked_items_and_copies():
    conditioning = ClassConditioning(classes=5, dim=7)
    fields = {"label": torch.tensor([4, 1, 2]), "image": torch.randn(3, 2)}
    dropped = conditioning.drop(fields, torch.tensor([False, True, False]))
    assert dropped["label"].tolist() == [4, 5, 2]
    assert fields["label"].tolist() == [4, 1, 2]
    assert dropped["image"] is fields["image"]
    context = conditioning(dropped).context
    assert torch.equal(context[[0, 2]], conditioning(fields).context[[0, 2]])
    assert torch.equal(context[1:2], conditioning.null({"label": torch.tensor([0])}, 1).context)


def test_dropping_all_is_the_null_condition():
    conditioning = ClassConditioning(classes=5, dim=7)
    fields = conditioning.drop({"label": torch.tensor([4, 1, 2])}, torch.ones(3, dtype=torch.bool))
    assert torch.equal(conditioning(fields).context, conditioning.null({"label": torch.tensor([0, 1, 2])}, 3).context)
    assert not torch.equal(
        conditioning.null({"label": torch.tensor([0])}, 1).context[0, 0], conditioning.embedding.weight[4]
    )


def test_a_table_without_null_class_can_be_neither_guided_nor_dropped():
    conditioning = ClassConditioning(classes=5, dim=7, null_class=False)
    fields = {"label": torch.tensor([4])}
    assert torch.equal(conditioning(fields).context[0, 0], conditioning.embedding.weight[4])
    with pytest.raises(UserError, match="without a null class"):
        conditioning.null({"label": torch.tensor([0])}, 1)
    with pytest.raises(UserError, match="without a null class"):
        conditioning.drop(fields, torch.tensor([True]))
    with pytest.raises(UserError, match="class label 5 is out of range"):
        conditioning({"label": torch.tensor([5])})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": torch.tensor([0, 6])}, "class label 6 is out of range: .* classes 0 to 4"),
        ({"label": torch.tensor([-1, 2])}, "class label -1 is out of range"),
        ({"label": torch.tensor([0.5])}, "one integer an image.*float32"),
        ({"label": torch.tensor([[1, 2]])}, r"one integer an image.*\(1, 2\)"),
        ({"caption": torch.tensor([1])}, r"needs the data field 'label'.*it has: caption"),
    ],
)
def test_bad_labels_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        ClassConditioning(classes=5, dim=7)(fields)


def test_a_class_conditioning_needs_a_class():
    with pytest.raises(UserError, match="at least one class, not 0"):
        ClassConditioning(classes=0, dim=7)


def test_unconditional_reads_nothing_and_drops_nothing():
    conditioning = Unconditional()
    fields = {"image": torch.randn(2, 3)}
    assert conditioning(fields) == conditioning.null(fields, 2) == Condition(None, None)
    assert conditioning.drop(fields, torch.tensor([True, True])) == fields
    assert (conditioning.fields, conditioning.context_dim, conditioning.concat_channels) == ((), None, 0)


def test_cat_and_indexing_are_inverses():
    first = Condition(context=torch.randn(2, 3, 5), concat=torch.randn(2, 1, 4, 4))
    second = Condition(context=torch.randn(3, 3, 5), concat=torch.randn(3, 1, 4, 4))
    both = first.cat(second)
    for part, expected in ((both[:2], first), (both[torch.tensor([2, 3, 4])], second)):
        assert torch.equal(part.context, expected.context)
        assert torch.equal(part.concat, expected.concat)
    assert Condition().cat(Condition()) == Condition()[:1] == Condition()


@pytest.mark.parametrize(
    "other", [Condition(), Condition(context=torch.zeros(2, 4, 5)), Condition(concat=torch.zeros(2, 3, 5))]
)
def test_conditions_of_different_kinds_do_not_share_a_batch(other):
    with pytest.raises(ValueError, match="different kinds"):
        Condition(context=torch.zeros(2, 3, 5)).cat(other)


def test_the_loss_trains_the_rows_of_the_batch_and_no_other():
    torch.manual_seed(0)
    conditioning = ClassConditioning(classes=5, dim=7)
    unet = UNet(
        in_channels=2,
        out_channels=2,
        model_channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        latent_side=2,
        attention_sides=(2,),
        num_heads=2,
        context_dim=conditioning.context_dim,
    )
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    fields = conditioning.drop({"label": torch.tensor([3, 1, 1])}, torch.tensor([False, False, True]))
    out = unet(torch.randn(3, 2, 2, 2), torch.tensor([1.0, 500.0, 900.0]), conditioning(fields).context)
    out.square().mean().backward()
    trained = conditioning.embedding.weight.grad.abs().amax(1) > 0
    assert trained.nonzero().flatten().tolist() == [1, 3, 5]
