"""Diffusion transformers in plans, sweeps, tables and exports, beside the UNet."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from all_plans import made_up_facts
from dit_checkpoint import made_up
from program import SHORT, copy_of, python, run
from tiny_plans import changed, identities, plan_of

from analysis.plot_tradeoffs import draw
from experiments import build
from experiments.budget import flops_per_training_image
from experiments.conditions import Vocabulary, annotations_read
from ldm.denoiser import DiT
from ldm.denoiser.dit import SIZES
from ldm.errors import UserError

FACTS = made_up_facts({"name": "emoji"})


def network_of(*overrides: str) -> DiT:
    config = plan_of("denoiser=dit", *overrides, facts=FACTS).config
    ae, side = config["ae"], config["data"]["resolution"] // config["ae"]["f"]
    conditions = build.conditioning(config["conditioning"], FACTS.vocabulary(annotations_read(config)), ae)
    network = build.denoiser(config["denoiser"], ae["channels"], side, conditions)
    assert isinstance(network, DiT)
    return network


@pytest.mark.parametrize("scale", ["tiny", "cpu", "gpu", "paper"])
def test_first_stage_and_patches_share_the_compression(scale):
    """The tokens are as many at every f, as far as a patch is more than one latent pixel."""
    sides = set()
    for f in (1, 2, 4, 8):
        config = plan_of("denoiser=dit", f"ae.f={f}", "trainer.budget=images", scale=scale).config
        sides.add(config["data"]["resolution"] // f // config["denoiser"]["patch"])
    assert len(sides) == 1


@pytest.mark.long
def test_one_token_is_added_several_are_attended_to_and_maps_stand_beside():
    one, none, several = network_of(), network_of("conditioning=none"), network_of("conditioning=layout")
    assert (one.adds_context, one.context_dim) == (True, 16)
    assert (none.adds_context, none.context_dim) == (False, None)
    assert (several.adds_context, several.context_dim) == (False, 16)
    maps = network_of("conditioning=semantic")
    assert (maps.in_channels, maps.out_channels, maps.context_dim) == (3 + 4, 3, None)


def test_a_named_size_is_its_numbers():
    named = plan_of("denoiser=dit", "denoiser.size=B")
    spelt = [f"denoiser.{name}={value}" for name, value in SIZES["B"].items()]
    assert identities(named) == identities(plan_of("denoiser=dit", *spelt))
    assert named.config["denoiser"]["size"] is None
    assert plan_of("denoiser=dit", "denoiser.size=B", "denoiser.depth=3").config["denoiser"]["depth"] == 3


def test_what_is_off_is_in_no_identity_and_what_is_on_trains_anew():
    plain = plan_of("denoiser=dit")
    assert not changed(plain, plan_of("denoiser=dit", "denoiser.rope=false"))
    for name in ("rope", "swiglu", "rms_norm", "qk_norm"):
        assert "diffusion" in changed(plain, plan_of("denoiser=dit", f"denoiser.{name}=true"))


def test_a_budget_of_flops_costs_what_the_unets_training_costs():
    known, work = Vocabulary(3), {}
    for name in ("unet", "dit"):
        for f in (4, 8):
            config = plan_of(f"denoiser={name}", f"ae.f={f}", "trainer.budget=flops", "trainer.images=100000").config
            work[name, f] = config["trainer"]["images"] * flops_per_training_image(config, f, known)
    assert list(work.values()) == pytest.approx([work["unet", 4]] * 4, rel=0.01)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["denoiser.patch=4", "ae.f=16"],
            "denoiser.patch=4 does not divide the latent's side, 2: use denoiser.patch=1 or 2",
        ),
        (["denoiser.patch=3"], "denoiser.patch=3 is none of 1, 2, 4, 8, 16"),
        (["denoiser.heads=3"], "denoiser.heads=3 does not divide denoiser.width=32"),
        (["ae.f=4", "samples.width=36"], "samples.width=36 .* multiple of 8 .ae.f=4 and denoiser.patch=2."),
        (["denoiser.size=M"], "denoiser.size=M is none of S, B, L, XL"),
    ],
)
@pytest.mark.parametrize("budget", ["images", "flops"])
def test_what_does_not_fit_is_refused_in_one_sentence(overrides, said, budget):
    with pytest.raises(UserError, match=said) as refused:
        build.check_networks(plan_of("denoiser=dit", f"trainer.budget={budget}", *overrides).config, Vocabulary(3))
    assert "\n" not in str(refused.value)


def test_the_training_of_the_papers_unets_is_not_its_own():
    with pytest.raises(UserError, match=r"trainer.budget=paper is how the paper trained its UNets, which denoiser=dit"):
        plan_of("denoiser=dit", "trainer.budget=paper", scale="paper")


def test_a_unet_of_the_paper_is_no_architecture_of_it():
    with pytest.raises(UserError, match=r"denoiser.architecture=text_f4 is a UNet of the paper's, which denoiser=dit"):
        plan_of("denoiser=dit", "denoiser.architecture=text_f4", scale="paper")


@pytest.mark.slow
def test_a_sweep_of_both_denoisers_has_them_side_by_side(swept_store, tmp_path, monkeypatch):
    store, rate = copy_of(swept_store, tmp_path), "trainer.matrix_learning_rate=0.01"
    done = run(store, "-m", "denoiser=unet,dit", "ae.f=1", rate, *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 cells" in done.stdout
    monkeypatch.setattr("analysis.figures.FIGURES", {})  # drawing takes longer than all else
    draw(store, tmp_path / "out", None, allow_mixed=False)
    frame = pd.read_csv(tmp_path / "out" / "results.csv")
    assert set(frame["denoiser"].dropna()) == {"unet", "dit"}
    assert "denoiser" in (tmp_path / "out" / "table.md").read_text()
    out = tmp_path / "export"
    cell = ["denoiser=dit", "conditioning=class", "ae.f=1", rate, *SHORT, "scale=tiny", f"store={store}", "device=cpu"]
    written = python("-m", "ldm.interop.export", out, *cell)
    assert written.returncode == 0, written.stdout + written.stderr
    index = json.loads(Path(out, "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "DiTTransformer2DModel"]
    assert "`class_labels`" in Path(out, "README.md").read_text()
    again = run(store, "denoiser=pretrained", f"denoiser.path={out}", "ae=identity", "ae.f=1", "precision=fp32")
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.mark.long
def test_a_published_checkpoint_is_a_given_denoiser(tmp_path):
    torch.save(made_up(channels=3, classes=3), tmp_path / "DiT.pt")
    plan = plan_of("denoiser=pretrained", f"denoiser.path={tmp_path / 'DiT.pt'}", "ae=identity", "ae.f=1")
    axes = {axis: plan.axes[axis] for axis in ("resolution", "conditioning", "target", "weights")}
    assert axes == {"resolution": 8, "conditioning": "class", "target": "eps", "weights": "DiT.pt (raw)"}
    assert plan.config["denoiser"]["halvings"] == 1
    build.check_networks(plan.config, Vocabulary(3))
