"""A file of weights is read by what it is, whatever its name; what is something else is called that."""

import bz2
import gzip
import io
import pickle
import tarfile
import zipfile
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from ldm.errors import UserError
from ldm.interop.tensors import read_tensors
from ldm.pretrained.weight_files import contents
from ldm.pretrained.weights import read_weights

READERS = (contents, read_tensors, read_weights)

OLD = {"_use_new_zipfile_serialization": False}

W = {"encoder.a": torch.arange(3.0), "decoder.b": torch.ones(2, 2)}


def picture(kind):
    written = io.BytesIO()
    Image.new("RGB", (8, 8)).save(written, kind)
    return written.getvalue()


def array(write, *values, **named):
    written = io.BytesIO()
    write(written, *values, **named)
    return written.getvalue()


def tar(*names):
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return written.getvalue()


def zipped(*names):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return written.getvalue()


OTHERS = {
    "page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
    "page in capitals": (b"\n <HTML>", "is a web page"),
    "saved page": (b"<!-- saved from url --><html>", "is a web page"),
    "page with a mark": ("\ufeff<!DOCTYPE html>".encode(), "is a web page"),
    "wide page": ("<!DOCTYPE html>".encode("utf-16"), "is a web page"),
    "error": (b'{"error":"Repository not found"}', "a text that begins .*Repository not found"),
    "text": (b"Entry not found", "a text that begins 'Entry not found'"),
    "gzip": (gzip.compress(b"weights", mtime=0), "is compressed by gzip: unpack it"),
    "bzip2": (bz2.compress(b"weights"), "is compressed by bzip2: unpack it"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "pointer of git-lfs"),
    "empty": (b"", "is empty"),
    "png": (picture("png"), r"is a picture \(PNG\), not a file of weights"),
    "jpeg": (picture("jpeg"), r"is a picture \(JPEG\), not a file of weights"),
    "gif": (picture("gif"), r"is a picture \(GIF\), not a file of weights"),
    "webp": (picture("webp"), r"is a picture \(WebP\), not a file of weights"),
    "pdf": (b"%PDF-1.7\n", "is a PDF, not a file of weights"),
    "npy": (array(np.save, np.zeros(3)), "is an array of numpy, .* save its tensors anew as safetensors"),
    "npz": (array(np.savez, a=np.zeros(3)), r"numpy's arrays \(.npz\): save its tensors anew as safetensors"),
    "zip": (zipped("readme.txt"), r"is a zip archive of other files \(readme.txt\).* unpack it"),
    "TorchScript": (zipped("model/data.pkl", "model/constants.pkl"), "is a program of TorchScript"),
    "tar": (tar("a/readme.txt", "b"), r"is a tar archive of other files \(a/readme.txt, b\).* unpack it"),
    "old tar": (tar("sys_info", "pickle", "tensors", "storages"), "torch's first versions .* save its tensors anew"),
    "plain pickle": (pickle.dumps({"a": [1.0]}, 2), "not saved by torch.save: save its tensors anew as safetensors"),
}


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors", "model.pth"])
@pytest.mark.parametrize("kind", OTHERS)
def test_what_only_bears_the_name_of_a_file_of_weights_is_called_what_it_is(kind, name, tmp_path):
    content, said = OTHERS[kind]
    (tmp_path / name).write_bytes(content)
    for read in READERS:
        with pytest.raises(UserError, match=said):
            read(tmp_path / name)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_is_read_by_its_content_whatever_its_suffix(reader, tmp_path):
    for suffix in ("ckpt", "pth", "pt", "bin", "safetensors"):
        file = tmp_path / f"model.{suffix}"
        for write in (
            save_file,
            torch.save,
            lambda held, to: torch.save(held, to, _use_new_zipfile_serialization=False),
        ):
            write(W, file)
            found = reader(file)
            assert found.keys() == W.keys()
            assert all(torch.equal(found[name], W[name]) for name in W)


def test_a_safetensors_file_that_is_cut_off_is_called_that_under_any_name(tmp_path):
    for name in ("model.ckpt", "model.safetensors"):
        (tmp_path / name).write_bytes(save(W)[:-8])
        with pytest.raises(UserError, match=r"is no readable safetensors file .* fetch it anew"):
            contents(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_other_pickle_protocols_are_named_with_the_remedy(protocol, is_zip, tmp_path):
    torch.save(W, tmp_path / "w.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    if protocol in (2, 3):
        assert contents(tmp_path / "w.pth").keys() == W.keys()
        return
    shown = "0 or 1" if protocol < 2 else protocol
    for read in READERS:
        with pytest.raises(UserError, match=f"w.pth was saved with pickle protocol {shown}, .* save it anew as safete"):
            read(tmp_path / "w.pth")


class Harm:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return print, (str(self.trace),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_nobody_is_told_to_run_what_a_file_holds(protocol, name, tmp_path, capsys):
    whole, broken = tmp_path / name, tmp_path / f"broken-{name}"
    for held in ({"model": W, "x": Harm("ran")}, {"model": torch.nn.Linear(2, 2)}):
        for is_zip in (True, False):
            torch.save(held, whole, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
            broken.write_bytes(whole.read_bytes()[:300])
            for file, read in product((whole, broken), READERS):
                with pytest.raises(UserError) as refused:
                    read(file)
                assert "weights_only" not in str(refused.value).replace(" ", "_").lower()
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_code_in_public_weights_is_refused_by_its_name(name, tmp_path):
    torch.save({"a": Harm("ran")}, tmp_path / name)
    with pytest.raises(UserError, match=r"is refused and nothing of it was run: .*builtin.*\.print"):
        read_weights(tmp_path / name)
