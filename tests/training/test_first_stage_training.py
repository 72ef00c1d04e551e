"""Training of first stages: resumption, the discriminator's start, the codebook, and that it learns."""

import copy
import dataclasses

import pytest
import torch

from experiments.stages.first_stage import flops_of_training
from ldm.first_stage.downsampling import Downsampling
from ldm.first_stage.equivariance import Equivariance, scaled
from ldm.first_stage.nested import Nested
from ldm.randomness import generator
from ldm.training.checkpoint import load_checkpoint, save_checkpoint
from ldm.training.first_stage import train_first_stage
from ldm.training.flops import count_flops


def parameters(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def advanced_to(training, step):
    for report in train_first_stage(training):
        if report.step == step:
            break
    return training


def slow(value):
    """One whose parts stand among the others too."""
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.long
@pytest.mark.parametrize(
    "kind",
    [
        slow({"regulariser": "kl", "autocast": torch.bfloat16}),
        {"regulariser": "kl", "norm": None, "dropout": 0.2},
        slow({"regulariser": "vq", "matrix_rate": 1e-3, "from_components": True}),
        {"regulariser": "vq", "norm": "batch", "dropout": 0.2},
        {"regulariser": "fsq", "matrix_rate": 1e-3, "from_components": True},
        {"regulariser": "lfq", "autocast": torch.bfloat16},
        slow({"regulariser": "bsq", "norm": None}),
        {
            "regulariser": "kl",
            "shapings": (Equivariance(rotation=True, scaling=True), Downsampling(0.25), Nested((1, 2, 3))),
            "aligned": True,
        },
        slow({"regulariser": "kl", "family": "dc", "dropout": 0.2}),
        {"regulariser": "vq", "family": "dc", "matrix_rate": 1e-3, "autocast": torch.bfloat16},
    ],
    ids=lambda kind: " ".join(
        [kind["regulariser"], *(name for name in ("family", "autocast", "matrix_rate", "shapings") if name in kind)]
    ),
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(kind, first_stage_training, differences, tmp_path):
    whole = advanced_to(first_stage_training(**kind), 12)
    assert whole.images_seen == 48
    first = first_stage_training(**kind)
    # VQ revives codes at steps 2, 4, 6, 8; the discriminator takes part from step 3 of 12.
    for stop in (1, 3, 6, 11):
        while first.step < stop:
            first.advance()
        save_checkpoint(tmp_path / "last.pt", first.state_dict())
        resumed = first_stage_training(**kind, start=99)  # other weights until it loads
        resumed.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
        assert resumed.step == stop
        assert differences(resumed.state_dict(), first.state_dict()) == []
        advanced_to(resumed, 12)
        assert differences(resumed.state_dict(), whole.state_dict()) == [], stop
        assert "/optimisers/adam/state/0/exp_avg" in differences(whole.state_dict(), first.state_dict())


def test_a_training_that_starts_at_components_loses_less_at_once(first_stage_training):
    reference, components = (
        first_stage_training("kl", from_components=chosen).advance().numbers()["l1"] for chosen in (False, True)
    )
    assert components < 0.7 * reference


@pytest.mark.long
@pytest.mark.parametrize("regulariser", ["kl", "vq", slow("fsq"), slow("lfq"), slow("bsq")])
def test_a_short_training_brings_images_nearer_and_leaves_codes_in_use(regulariser, first_stage_training):
    training = first_stage_training(regulariser, norm=None, images=320, learning_rate=4e-3, from_components=True)
    reports = [report.numbers() for report in train_first_stage(training)]
    before, after = (sum(r["l1"] for r in part) for part in (reports[:8], reports[-8:]))
    assert after < 0.6 * before
    assert ("codebook_perplexity" in reports[-1]) == (regulariser != "kl")
    assert reports[-1].get("codebook_perplexity", 4) > 3


def test_autocast_changes_the_first_step_by_rounding_only(first_stage_training):
    values = [
        first_stage_training("kl", adversarial_from=0.0, autocast=dtype).advance().numbers()
        for dtype in (None, torch.bfloat16)
    ]
    assert values[0].keys() == values[1].keys()
    assert values[1]["l1"] != values[0]["l1"]
    for name in ("l1", "kl", "discriminator"):
        assert values[1][name] == pytest.approx(values[0][name], rel=0.03), name


def test_the_codebook_starts_on_encodings_and_unused_codes_move_to_encodings(first_stage_training):
    training = first_stage_training("vq", norm=None, learning_rate=0.0)
    before = training.model.quantiser.codebook.detach().clone()
    advanced_to(training, 2)
    quantiser = training.model.quantiser
    started = quantiser.codebook.detach().clone()
    assert (started != before).any(dim=1).all()
    dead = quantiser.usage == 0
    assert 0 < int(dead.sum()) < quantiser.codes, "some codes must be unused and some used for this test to tell"
    training.optimisers["adam"].state[quantiser.codebook]["exp_avg"].fill_(1.0)
    training.optimisers["adam"].state[quantiser.codebook]["exp_avg_sq"].fill_(1.0)
    training.model.train()
    training.advance()
    moved = (quantiser.codebook != started).any(dim=1)
    encodings = training.model.encode(training.images.batch(range(12))).permute(0, 2, 3, 1).flatten(0, 2)
    mirrored = training.model.encode(training.images.batch(range(12)).flip(-1)).permute(0, 2, 3, 1).flatten(0, 2)
    # By differences: the fast way by products loses half the digits where two points coincide.
    distance = torch.cdist(
        quantiser.codebook[dead], torch.cat([encodings, mirrored]), compute_mode="donot_use_mm_for_euclid_dist"
    )
    distance = distance.min(dim=1).values
    assert not moved[~dead].any()
    assert distance.max() < 1e-5
    momentum = training.optimisers["adam"].state[quantiser.codebook]["exp_avg"]
    # What Adam knew of a moved code was of another place; after one more step only that step's gradient is left.
    assert momentum[dead].abs().max() < 0.4 < momentum[~dead].abs().min()


def test_codes_are_left_alone_at_the_end_of_training(first_stage_training):
    training = first_stage_training("vq", norm=None)
    codes = training.model.quantiser
    counted = []
    for _ in train_first_stage(training):
        counted.append(int(codes.usage.sum()))
    positions = 4 * (16 // 4) ** 2  # codes chosen in a step
    # Revived before steps 2, 4, 6 and 8 (of 0 to 11), each of which starts the counts afresh; not at step 10.
    assert counted == [positions * n for n in (1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 3, 4)]


@pytest.mark.long
def test_the_discriminator_moves_only_from_its_start_on(first_stage_training):
    training = first_stage_training("kl", adversarial_from=0.5)
    alone = first_stage_training("kl", norm=None, adversarial_from=0.5)
    for report, without in zip(train_first_stage(training), train_first_stage(alone), strict=True):
        takes_part = report.step > 6
        assert ("discriminator" in report.values) == takes_part
        if report.step == 1:
            untouched = parameters(training.discriminator)
        assert torch.equal(parameters(training.discriminator), untouched) == (not takes_part)
        # It changes what the autoencoder learns from its start on, not before.
        assert torch.equal(parameters(training.model), parameters(alone.model)) == (not takes_part)
        assert (float(report.values["adaptive_weight"]) > 0) == takes_part
        assert "discriminator" not in without.values


@pytest.mark.long
def test_the_discriminator_learns_to_tell_images_from_reconstructions(first_stage_training):
    training = first_stage_training("kl", adversarial_from=0.0, images=160, decay="constant", learning_rate=1e-3)
    # The autoencoder stands still, so that there is something fixed to be told apart.
    training.optimisers["adam"].step = lambda: None
    losses = [float(report.values["discriminator"]) for report in train_first_stage(training)]
    assert losses[0] == pytest.approx(1, abs=0.3)
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


@pytest.mark.long
@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_two_images_are_learned(regulariser, first_stage_training):
    training = first_stage_training(regulariser, norm=None, images=400, learning_rate=1e-2, gradient_clip=None)
    all_images = training.images
    training.images = dataclasses.replace(all_images, images=all_images.images[:2], labels=all_images.labels[:2])
    l1 = [float(report.values["l1"]) for report in train_first_stage(training)]
    assert sum(l1[-10:]) < 0.25 * sum(l1[:10])


@pytest.mark.long
def test_what_is_random_at_a_step_does_not_depend_on_what_went_before(first_stage_training):
    seen = {}

    def remember(name, training):
        def hook(module, given):
            seen.setdefault(name, []).append(given)

        training.model.register_forward_pre_hook(hook)
        for _ in train_first_stage(training):
            torch.manual_seed(len(seen[name]))  # another user of the global stream

    remember("one", first_stage_training("kl"))
    remember("other history", first_stage_training("kl", start=5, learning_rate=1e-5, dropout=0.3))
    remember("other seed", first_stage_training("kl", seed=4))
    for step, (image, noise) in enumerate(seen["one"]):
        assert torch.equal(image, seen["other history"][step][0])
        assert torch.equal(noise, seen["other history"][step][1])
        assert not torch.equal(noise, seen["other seed"][step][1])
    assert len({tuple(noise.flatten().tolist()) for _, noise in seen["one"]}) == 12


def test_about_half_of_the_images_are_shown_mirrored(first_stage_training):
    training = first_stage_training("kl", norm=None, images=256, batch=64)
    known = training.images.batch(range(12))
    seen = []
    training.model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    assert len(list(train_first_stage(training))) == 4
    shown = torch.cat(seen)
    as_stored, mirrored = (
        (shown[:, None] == views[None]).flatten(2).all(2).any(1) for views in (known, known.flip(-1))
    )
    assert (as_stored | mirrored).all()
    asymmetric = as_stored ^ mirrored  # images whose halves lie one above the other are their own mirror images
    share = float(mirrored[asymmetric].double().mean())
    assert share == pytest.approx(0.5, abs=4 * 0.5 / int(asymmetric.sum()) ** 0.5)


def test_the_learning_rates_of_all_optimisers_follow_the_rule(first_stage_training):
    training = first_stage_training("kl", warm_up=16, decay="constant", matrix_rate=8e-3)
    full = {"muon": 8e-3, "adam": 2e-3, "discriminator": 2e-3}
    rates = []
    for _ in train_first_stage(training):
        optimisers = {**training.optimisers, "discriminator": training.discriminator_optimiser}
        shares = {name: optimisers[name].param_groups[0]["lr"] / full[name] for name in full}
        assert shares["muon"] == shares["adam"] == shares["discriminator"]
        rates.append(shares["muon"])
    assert rates[:5] == pytest.approx([1 / 16, 5 / 16, 9 / 16, 13 / 16, 1])


def test_gradients_are_clipped_to_the_norm_given(first_stage_training):
    norms = {}
    for limit in (None, 1e-3):
        training = first_stage_training("kl", norm=None, gradient_clip=limit)
        advanced_to(training, 1)
        gradients = [p.grad for p in training.model.parameters()]
        norms[limit] = float(torch.stack([g.norm() for g in gradients]).norm())
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-2)
    assert norms[None] > 0.01


def test_a_half_finished_last_batch_is_made_whole(first_stage_training):
    training = first_stage_training("kl", norm=None, images=9)
    assert [report.images_seen for report in train_first_stage(training)] == [4, 8, 12]
    state = copy.deepcopy(training.state_dict())
    assert list(train_first_stage(training)) == []
    assert torch.equal(training.model.encoder.stem.weight, state["model"]["encoder.stem.weight"])


def test_the_loss_is_that_of_turned_latents_against_turned_images(first_stage_training):
    """By brute force, from the model before the step."""
    turning = Equivariance(rotation=True, probability=1.0)
    training = first_stage_training("kl", norm=None, shapings=(turning, Downsampling(0.25)), learning_rate=1e-9)
    model, drawn = copy.deepcopy(training.model), []
    batch, noise = training._batch, torch.randn
    training._batch = lambda part, draw: drawn.append(batch(part, draw)) or drawn[-1]
    values = training.advance().numbers()
    [image] = drawn
    draw = generator(3, "step", 0)
    torch.randint(12, (4,), generator=draw)
    torch.rand(4, generator=draw)
    z = model.encode(image).sample(noise((4, 3, 4, 4), generator=draw))
    errors = [
        float((model.decode(z.rot90(turns, (2, 3))) - image.rot90(turns, (2, 3))).abs().mean()) for turns in (1, 2, 3)
    ]
    assert min(abs(values["l1"] - error) for error in errors) < 1e-6
    assert len({round(error, 4) for error in errors}) == 3, "or else the test tells nothing"
    smaller = [float((model.decode(scaled(z, s, 4)) - scaled(image, s, 4)).abs().mean()) for s in (2, 1)]
    assert min(abs(values["downsampling"] - error) for error in smaller) < 1e-5
    assert values["total"] == pytest.approx(
        values["l1"] + 1e-6 * values["kl"] + 0.25 * values["downsampling"], rel=1e-5
    )


@pytest.mark.parametrize("norm", [None, "group"])
def test_alignment_is_weighed_by_gradients_at_the_encoders_last_layer(norm, first_stage_training):
    """By brute force, from the model before the step; with and without a discriminator beside it."""
    still = {"learning_rate": 1e-9, "adversarial_from": 0.0}
    training = first_stage_training("kl", norm=norm, aligned=True, **still)
    model, term = copy.deepcopy(training.model), copy.deepcopy(training.alignment)
    training.shapings, drawn, batch = [term.options], [], training._batch
    training._batch = lambda part, draw: drawn.append(batch(part, draw)) or drawn[-1]
    values = training.advance().numbers()
    draw = generator(3, "step", 0)
    torch.randint(12, (4,), generator=draw)
    torch.rand(4, generator=draw)
    z = model.encode(drawn[0]).sample(torch.randn((4, 3, 4, 4), generator=draw))
    aligned, l1 = term(z, drawn[0]), (model.decode(z) - drawn[0]).abs().mean()
    layer = model.encoder.head.weight
    norms = [float(torch.autograd.grad(each, layer, retain_graph=True)[0].norm()) for each in (l1, aligned)]
    weight = 0.1 * norms[0] / (norms[1] + 1e-4)
    assert values["alignment"] == pytest.approx(float(aligned), rel=1e-5)
    rest = values["l1"] + 1e-6 * values["kl"] + values["adaptive_weight"] * values["adversarial"]
    assert values["total"] - rest == pytest.approx(weight * values["alignment"], rel=1e-3)
    assert weight * values["alignment"] > 1e-3


@pytest.mark.slow
def test_a_training_with_turned_latents_makes_decoding_more_equivariant(first_stage_training):
    def error(*shapings):
        training = first_stage_training("kl", norm=None, images=480, learning_rate=4e-3, shapings=shapings)
        for _ in train_first_stage(training):
            pass
        image = training.images.batch(range(12))
        z = training.model.encode(image).mean
        with torch.no_grad():
            turned = [(training.model.decode(z.rot90(k, (2, 3))) - image.rot90(k, (2, 3))).abs().mean() for k in (1, 3)]
        return float(sum(turned))

    assert error(Equivariance(rotation=True)) < 0.9 * error()


KINDS_THAT_RECOMPUTE = {
    "kl": {"regulariser": "kl", "dropout": 0.2, "adversarial_from": 0.0},
    "vq": {"regulariser": "vq", "norm": "batch", "adversarial_from": 0.0},
    "dc": {"regulariser": "kl", "family": "dc", "norm": None, "autocast": torch.bfloat16},
    "shaped": {"regulariser": "kl", "shapings": (Equivariance(rotation=True), Nested((1, 2, 3))), "aligned": True},
}


def short_of_memory(training, error, passes=(5,)):
    """The same training, whose decoder has no memory left in these passes, counted from 1, when it is through."""
    made = 0

    def fails(*_):
        nonlocal made
        made += 1
        if made in passes:
            raise error

    training.model.decoder.register_forward_hook(fails)
    return training


@pytest.mark.long
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("out of memory"), slow(RuntimeError("can't allocate memory"))],
)
@pytest.mark.parametrize("kind", KINDS_THAT_RECOMPUTE.values(), ids=KINDS_THAT_RECOMPUTE)
def test_where_memory_does_not_suffice_activations_are_computed_again(
    error, kind, first_stage_training, differences, caplog, tmp_path
):
    """The step is begun again, with the same numbers bit for bit, and goes on so where it is resumed."""
    plain, short = first_stage_training(**kind), short_of_memory(first_stage_training(**kind), error)
    for _ in range(6):
        assert short.advance().numbers() == plain.advance().numbers()
    assert not plain.recomputes
    assert short.recomputes
    assert "memory does not suffice for a step of 4 images" in caplog.text
    state = short.state_dict()
    assert differences(state, plain.state_dict()) == ["/recomputes"]
    save_checkpoint(tmp_path / "last.pt", state)
    resumed = first_stage_training(**kind, start=99)
    resumed.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    assert resumed.recomputes
    assert differences(advanced_to(resumed, 12).state_dict(), advanced_to(plain, 12).state_dict()) == ["/recomputes"]


def kept_bytes(training):
    """What is kept for the backward pass of the autoencoder in one step, each tensor once."""
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    image, noise = training.images.batch(range(4)), torch.zeros(4, 3, 4, 4)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        training.model(image, noise)
    return sum(kept.values())


@pytest.mark.long
@pytest.mark.parametrize("family", ["reference", "dc"])
def test_what_is_computed_again_is_neither_kept_nor_counted(family, first_stage_training):
    trainings = [first_stage_training("kl", family=family, norm=None) for _ in range(2)]
    trainings[1].recompute()
    weights = sum(parameter.nbytes for parameter in trainings[0].model.parameters())
    plain, recomputed = (kept_bytes(training) - weights for training in trainings)
    assert recomputed < 0.5 * plain
    assert count_flops(trainings[0].advance) == count_flops(trainings[1].advance) > 0


def test_no_memory_even_so_and_other_errors_are_errors(first_stage_training):
    none = short_of_memory(first_stage_training("kl"), torch.OutOfMemoryError("none"), passes=(1, 2))
    with pytest.raises(torch.OutOfMemoryError, match="none"):
        none.advance()
    other = short_of_memory(first_stage_training("kl"), RuntimeError("sizes differ"), passes=(1,))
    with pytest.raises(RuntimeError, match="sizes differ"):
        other.advance()
    assert not other.recomputes


@pytest.mark.long
def test_a_training_whose_rehearsal_lacks_memory_is_counted_like_any_other(first_stage_training):
    """The pass that failed is not counted, nor what is computed again."""
    short = short_of_memory(first_stage_training("kl"), torch.OutOfMemoryError("none"), passes=(3,))
    assert flops_of_training(short) == flops_of_training(first_stage_training("kl"))
    assert short.recomputes
