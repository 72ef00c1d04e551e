"""Of a weight file tensors are read, and nothing of it is run."""

import argparse
import collections
import datetime
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.errors import UserError
from ldm.interop.tensors import read_tensors, read_weights
from ldm.pretrained.weight_files import STAND_INS


class Harm:
    """A pickle of it leaves a trace wherever it is loaded without care."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", ["zip", "old", "plain pickle"])
def test_a_harmful_pickle_is_refused_by_name_and_leaves_no_trace(form, protocol, tmp_path):
    harmful = {"state_dict": {"weight": torch.zeros(2)}, "callbacks": Harm(tmp_path / "trace")}
    file = tmp_path / "model.ckpt"
    if form == "plain pickle":
        file.write_bytes(pickle.dumps(harmful, protocol))
    else:
        torch.save(harmful, file, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match=rf"refused and nothing of it was run: .*{os.mkdir.__module__}\.mkdir"):
        read_tensors(file)
    assert not (tmp_path / "trace").exists()
    pickle.loads(pickle.dumps(Harm(tmp_path / "trace")))
    assert (tmp_path / "trace").exists(), "the pickle is not harmful at all"


def test_classes_of_training_programs_are_stood_in_for_and_never_imported(tmp_path, monkeypatch):
    file = tmp_path / "last.ckpt"
    for number, name in enumerate(STAND_INS):
        package, _, kind = name.rpartition(".")
        module = type(sys)(package)
        # A class of that name for saving alone: the file holds an object of it, and the class itself as a key.
        stored = type(kind, (dict,) if kind == "AttributeDict" else (), {"__module__": package})
        setattr(module, kind, stored)
        an_object = stored()
        if kind == "AttributeDict":
            an_object["learning_rate"] = 0.1
        else:
            an_object.best = 1.0
        parents = {package[: match.start()]: module for match in re.finditer(r"\.", package)}
        with monkeypatch.context() as saving:
            for place in (package, *parents):
                saving.setitem(sys.modules, place, module)
            torch.save({"callbacks": {stored: an_object}, "state_dict": {"w": torch.tensor([float(number)])}}, file)
        assert read_tensors(file)["w"] == number, name
        assert package not in sys.modules


@pytest.mark.data
def test_a_training_runs_checkpoint_gives_what_the_plain_one_gives(shared_data):
    folder = shared_data / "fixtures" / "compvis"
    trained = read_tensors(folder / "vq_f2_lightning_callbacks" / "last.ckpt")
    plain = read_tensors(folder / "vq_f2_no_attention" / "model.ckpt")
    assert all(torch.equal(trained[name], plain[name]) for name in plain if not name.startswith("loss."))


def test_tensors_are_read_from_every_kind_of_file(tmp_path):
    weights = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.float16)}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "wrapped.ckpt")
    torch.save(weights, tmp_path / "bare.pth")
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "plain.safetensors")
    assert load_file(tmp_path / "plain.safetensors").keys() == weights.keys()
    for file in tmp_path.iterdir():
        found = read_tensors(file)
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.ckpt", b"no pickle", "no readable checkpoint of torch"),
        ("model.safetensors", b"no header", "no readable safetensors file"),
        ("model.pth", pickle.dumps([1, 2], 2), "was not saved by torch.save: save its tensors anew as safetensors"),
    ],
)
def test_a_file_without_tensors_is_told(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_tensors(tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "empty.ckpt")
    with pytest.raises(UserError, match="holds no named tensors"):
        read_tensors(tmp_path / "empty.ckpt")


W = {"encoder.a": torch.arange(3.0), "decoder.b": torch.ones(2, 2)}
E = {name: value + 1 for name, value in W.items()}


def prefixed(prefix, tensors=W):
    return {prefix + name: value for name, value in tensors.items()}


def averaged(tensors):
    """The state of an `AveragedModel`."""
    return {"n_averaged": torch.tensor(7), **prefixed("module.", tensors)}


NESTED = {
    "state_dict": ({"state_dict": W, "epoch": 3}, W),
    "model": ({"model": W, "optimizer": {"state": {}}}, W),
    "model_state_dict": ({"model_state_dict": W, "loss": torch.tensor(0.5)}, W),
    "wrapped twice": ({"checkpoint": 1, "model": {"state_dict": W}}, W),
    "ema beside raw": ({"model": W, "ema": E}, E),
    "params_ema": ({"params": W, "params_ema": E}, E),
    "shadow": ({"model": W, "ema": {"decay": 0.999, "shadow": E}}, E),
    "module.": ({"state_dict": prefixed("module.")}, W),
    "_orig_mod.": (prefixed("_orig_mod."), W),
    "stacked prefixes": ({"model": prefixed("module._orig_mod.module.")}, W),
    "compiled part": ({"encoder._orig_mod.a": W["encoder.a"], "decoder.b": W["decoder.b"]}, W),
    "losses beside": ({"model": W, "best": torch.tensor(1.0), "a": torch.tensor(1.0), "b": torch.tensor(1.0)}, W),
    "checkpoint": ({"checkpoint": {"state": {"model": W}}}, W),
    "in a list": ([W, {"epoch": 1}], prefixed("0.")),
    "any case": ({"Model": W, "EMA": E}, E),
    "g_ema": ({"g": W, "g_ema": E, "d": {"x": torch.ones(1)}}, E),
    "teacher": ({"student": W, "teacher": E}, E),
    "averaged_state_dict": ({"state_dict": W, "averaged_state_dict": E}, E),
    "an average without names": ({"model": W, "ema": {"decay": 0.9, "shadow_params": list(E.values())}}, E),
    "an average of another network": ({"model": W, "ema": {"shadow_params": [torch.ones(5)]}}, W),
    "buffers are not averaged": ({"model": {**W, "n": torch.ones(1)}, "ema": E}, {**E, "n": torch.ones(1)}),
    "the average of one network": (
        {"vae": W, "unet": {"c": torch.zeros(1)}, "ema_vae": E},
        {**prefixed("vae.", E), "unet.c": torch.zeros(1)},
    ),
    "ema_pytorch": (
        {"model": W, "ema": {"initted": torch.tensor(True), **prefixed("online_model."), **prefixed("ema_model.", E)}},
        E,
    ),
    "an average of several networks": ({"vae": W, "ema": {"vae": E}}, prefixed("vae.", E)),
    "an average beside counters": ({"step": torch.tensor(3), "model": W, "swa": E}, E),
    "module. in the weights alone": ({"model": prefixed("module."), "ema": E}, E),
    "swa_utils": ({"model": W, "averaged": averaged(E)}, E),
    "swa_utils under any name": ({"model": W, "second": averaged(E)}, E),
    "swa_utils by the first name": ({**prefixed("model."), **prefixed("swa.", averaged(E))}, prefixed("model.", E)),
    "a single layer": ({"model.w": W["encoder.a"], "ema.w": E["encoder.a"]}, {"model.w": E["encoder.a"]}),
    "by the first name": ({**prefixed("online_model."), **prefixed("ema_model.", E)}, prefixed("online_model.", E)),
    "without dots": ({**W, **{f"model_ema.{name.replace('.', '')}": value for name, value in E.items()}}, E),
    "several networks": ({"vae": W, "unet": {"c": torch.zeros(1)}}, {**prefixed("vae."), "unet.c": torch.zeros(1)}),
}


@pytest.mark.parametrize("form", NESTED)
def test_tensors_are_found_whatever_wraps_them(form, tmp_path):
    saved, expected = NESTED[form]
    torch.save(saved, tmp_path / "model.pt")
    found = read_tensors(tmp_path / "model.pt")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("form", NESTED)
def test_the_plain_weights_are_taken_where_they_are_asked_for(form, tmp_path, caplog):
    saved, expected = NESTED[form]
    torch.save(saved, tmp_path / "model.pt")
    found, taken = read_weights(tmp_path / "model.pt", "auto")
    assert (taken == "ema") == any("it is taken" in record.message for record in caplog.records)
    assert (taken == "ema") == any(torch.equal(value, E["encoder.a"]) for value in found.values())
    plain, taken = read_weights(tmp_path / "model.pt", "raw")
    assert taken == "raw"
    assert plain.keys() == expected.keys()
    assert all(torch.equal(value, W["encoder.a"]) for name, value in plain.items() if name.endswith("encoder.a"))


NAMES_OF_AVERAGES = (
    *("swa", "swa_model", "polyak", "ema-model", "modelEma", "model-ema", "EMA", "emaModel", "averaged_model"),
    *("ModelEMA", "EMAModel", "avg_model", "net.ema", "ema_0.9999", "polyak_average"),
)


@pytest.mark.parametrize("name", NAMES_OF_AVERAGES)
def test_an_average_is_known_by_its_name_however_its_words_are_joined(name, tmp_path):
    forms = {"nested": {"model": W, name: E}, "counted": {"state_dict": W, name: averaged(E)}}
    forms |= {"flat": {**prefixed("net."), **prefixed(f"{name}.", E)}} if "." not in name else {}
    for form, saved in forms.items():
        torch.save(saved, tmp_path / "model.pt")
        for asked, expected in (("auto", E), ("raw", W)):
            found, taken = read_weights(tmp_path / "model.pt", asked)
            expected = prefixed("net.", expected) if form == "flat" else expected
            assert taken == ("ema" if asked == "auto" else "raw"), form
            assert all(torch.equal(found[key], expected[key]) for key in expected), form
            assert found.keys() == expected.keys()


@pytest.mark.parametrize("name", ["schema", "gamma_mean", "emanuel", "average_pool", "avgpool", "avg_pool", "avgPool"])
def test_a_layer_whose_name_sounds_like_an_average_is_a_layer(name, tmp_path):
    layer = {"a": torch.zeros(3), "b.c": torch.ones(2)}
    forms = {
        "flat": ({**W, **prefixed(f"{name}.", layer)}, {**W, **prefixed(f"{name}.", layer)}),
        "like another": (both := {**prefixed("max_pool.", layer), **prefixed(f"{name}.", layer)}, both),
        "nested": ({"conv": W, name: layer}, {**prefixed("conv.", W), **prefixed(f"{name}.", layer)}),
        "beside the weights": ({"model": W, name: layer}, W),
    }
    for form, (saved, expected) in forms.items():
        torch.save(saved, tmp_path / "model.pt")
        found, taken = read_weights(tmp_path / "model.pt", "auto")
        assert taken == "raw", form
        assert found.keys() == expected.keys(), form
        assert all(torch.equal(found[key], expected[key]) for key in expected), form


def test_an_average_may_have_other_names_than_its_weights(tmp_path):
    torch.save({"state_dict": prefixed("net."), "ema": E}, tmp_path / "model.pt")
    for asked, expected in (("auto", E), ("raw", prefixed("net."))):
        found, _ = read_weights(tmp_path / "model.pt", asked)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_an_average_that_fits_no_weights_is_left_out_or_another_network(tmp_path, caplog):
    other = {"x": torch.ones(7), "y": torch.ones(9)}
    torch.save({"student": W, "teacher": other}, tmp_path / "model.pt")
    assert read_tensors(tmp_path / "model.pt").keys() == W.keys()
    assert "fits no weights" in caplog.text
    torch.save({"vae": W, "shadow": other}, tmp_path / "model.pt")
    assert read_tensors(tmp_path / "model.pt").keys() == (prefixed("vae.") | prefixed("shadow.", other)).keys()


def test_an_averaged_model_alone_is_an_average(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    state = torch.optim.swa_utils.AveragedModel(network).state_dict()
    for saved in (state, {"state_dict": state, "epoch": 3}):
        torch.save(saved, tmp_path / "model.pt")
        found, taken = read_weights(tmp_path / "model.pt", "auto")
        assert taken == "ema"
        assert found.keys() == network.state_dict().keys()


def test_a_file_of_a_moving_average_alone_says_so(tmp_path):
    torch.save({"params_ema": E, "epoch": 3}, tmp_path / "model.pt")
    for asked in ("auto", "raw"):
        found, taken = read_weights(tmp_path / "model.pt", asked)
        assert taken == "ema"
        assert found.keys() == E.keys()


OTHER_OBJECTS = {
    "a whole network": (lambda: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "a network in a mapping": (lambda: {"model": torch.nn.Linear(2, 2)}, "torch.nn.modules.linear.Linear"),
    "an optimiser": (lambda: {"model": W, "o": torch.optim.SGD([torch.ones(1)], lr=1.0)}, "torch.optim.sgd.SGD"),
    "arrays": (lambda: {"model": {name: value.numpy() for name, value in W.items()}}, "arrays of numpy in place of"),
    "no names": (lambda: {"shadow_params": list(W.values())}, "holds 2 tensors without names"),
}


@pytest.mark.parametrize("what", OTHER_OBJECTS)
@pytest.mark.parametrize("is_zip", [True, False])
def test_what_is_no_tensor_with_a_name_is_refused_by_its_own(what, is_zip, tmp_path):
    made, said = OTHER_OBJECTS[what]
    torch.save(made(), tmp_path / "model.pt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(UserError, match=re.escape(said)):
        read_tensors(tmp_path / "model.pt")


def test_what_training_programs_save_beside_tensors_does_no_harm(tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    beside = {
        "args": argparse.Namespace(lr=1e-4, path=Path("/tmp/x"), seed=np.int64(3)),
        "best": np.float32(0.5),
        "history": np.arange(5),
        "config": omegaconf.OmegaConf.create({"model": {"target": "x", "sizes": [1, 2]}}),
        "counts": collections.defaultdict(list, {"a": [1]}),
        "recent": collections.deque([1, 2], maxlen=3),
        "tally": collections.Counter("aab"),
        "when": datetime.datetime(2026, 1, 1),
        "kinds": {1, 2},
        "shape": torch.Size([1, 2]),
    }
    for name, value in beside.items():
        torch.save({"model": W, name: value}, tmp_path / "model.pt")
        found = read_tensors(tmp_path / "model.pt")
        assert found.keys() == W.keys(), name
        assert all(torch.equal(found[key], W[key]) for key in W), name
