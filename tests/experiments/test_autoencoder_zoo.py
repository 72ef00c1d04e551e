"""Published autoencoders side by side: names in tables, denoisers of equal cost on the latents of each, one figure."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from program import ROOT, environment, run
from tiny_plans import plan_of

from experiments import published
from experiments.commands.export import main as export
from ldm.errors import UserError


@pytest.fixture
def tiny(shared_data):
    """A tiny autoencoder in two files, of which one is named."""
    return shared_data / "weights" / "taef2_encoder.safetensors"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/kl-f8", "kl-f8"),
        ("/models/kl-f8/model.ckpt", "kl-f8/model.ckpt"),
        ("/models/sd/vae", "sd/vae"),
        ("/models/sd/vae/diffusion_pytorch_model.safetensors", "sd/vae/diffusion_pytorch_model.safetensors"),
        ("/models/taef2_encoder.safetensors", "taef2_encoder.safetensors"),
        ("/vae", "/vae"),
    ],
)
def test_weights_are_called_by_what_tells_them_apart(path, name):
    assert published.name_of(path) == name


def test_two_of_one_name_are_refused_before_anything_runs():
    a, b = ({"path": f"/{folder}/kl-f8"} for folder in "ab")
    published.check_names([a, a, {"regulariser": "kl"}, {"path": "/a/vq-f8"}])
    with pytest.raises(
        UserError, match=r"ae\.path=/a/kl-f8 and ae\.path=/b/kl-f8 would both be called kl-f8 in tables"
    ):
        published.check_names([a, b])


@pytest.mark.slow
@pytest.mark.data
def test_denoisers_cost_as_much_and_transformers_have_as_many_tokens_on_each(shared_data, tiny):
    """At f = 2 of the tiny one and at f = 8 of another."""
    paths = (tiny, shared_data / "fixtures" / "compvis" / "kl_f8_attention")

    def plans(*more):
        return [plan_of("+experiment=autoencoder_zoo", f"ae.path={path}", *more) for path in paths]

    unets = plans()
    assert [plan.axes["ae_weights"] for plan in unets] == ["taef2_encoder.safetensors", "kl_f8_attention"]
    for plan in unets:
        assert plan.config["trainer"]["budget"] == "flops"
        assert {"predictors", "reconstruction", "diffusion", "evaluation"} <= set(plan.stages)
    assert len({plan.axes["f"] * plan.config["denoiser"]["patch"] for plan in plans("denoiser=dit")}) == 1


def test_without_paths_it_says_what_it_needs():
    with pytest.raises(UserError, match=r"ae=pretrained needs ae\.path="):
        plan_of("+experiment=autoencoder_zoo")


@pytest.mark.data
@pytest.mark.program
@pytest.mark.slow
def test_a_tiny_autoencoder_and_two_exports_of_a_store_are_measured_together(tiny, tmp_path):
    trained = tmp_path / "trained"
    done = run(trained, "-m", "ae=kl,vq", "ae.f=8", "until=diffusion")
    assert done.returncode == 0, done.stderr
    for kind in ("kl", "vq"):
        told = ["scale=tiny", f"ae={kind}", "ae.f=8", f"store={trained}", "device=cpu"]
        assert export([str(tmp_path / f"my_{kind}"), *told]) == 0
    store = tmp_path / "store"
    paths = ",".join(map(str, (tiny, tmp_path / "my_kl", tmp_path / "my_vq")))
    done = run(store, "-m", "+experiment=autoencoder_zoo", f"ae.path={paths}")
    assert done.returncode == 0, done.stderr
    drawn = [
        sys.executable,
        str(ROOT / "analysis" / "plot_tradeoffs.py"),
        "--store",
        str(store),
        "--out",
        str(tmp_path),
    ]
    plotted = subprocess.run(drawn, capture_output=True, text=True, env=environment(), cwd=ROOT)
    assert plotted.returncode == 0, plotted.stderr
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {"taef2_encoder.safetensors", "my_kl", "my_vq"}
    for stage in ("reconstruction", "predictors", "evaluation"):
        assert {row["ae_weights"] for row in rows if row["stage"] == stage} == names, stage
    table = (tmp_path / "table.md").read_text()
    assert all(name in table for name in names)
    assert Path(tmp_path / "autoencoders.png").stat().st_size > 10_000
