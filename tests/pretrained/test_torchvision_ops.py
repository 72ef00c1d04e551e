"""Each case runs in a fresh interpreter on a stand-in for torchvision: a process can declare operators only once."""

import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = """
import torch
import torchvision.half
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
if torchvision.half.seen != [1]:
    raise AssertionError("a module of the failed import was used again")
torchvision.half.seen.append(2)
"""
WORKING = """
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
OTHER = "raise RuntimeError('out of memory')"

USE = """
import sys
from ldm.pretrained import torchvision_ops
torchvision_ops.ensure_torchvision()
import torchvision
first = torchvision
torchvision_ops.ensure_torchvision()
assert sys.modules["torchvision"] is first
print("declared", len(torchvision_ops._declared))
"""


def run_with(tmp_path: Path, package: str) -> subprocess.CompletedProcess:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(package)
    (tmp_path / "torchvision" / "half.py").write_text("seen = []\nseen.append(1)\n")
    root = Path(__file__).parents[2]
    start = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]\n"
    return subprocess.run([sys.executable, "-c", start + USE], capture_output=True, text=True, check=False)


@pytest.mark.long
@pytest.mark.parametrize(("package", "declared"), [(BROKEN, 1), (WORKING, 0)], ids=["broken", "working"])
def test_torchvision_is_importable_and_declared_only_where_broken(tmp_path, package, declared):
    done = run_with(tmp_path, package)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["declared", str(declared)]


@pytest.mark.long
def test_an_import_that_fails_for_another_reason_still_fails(tmp_path):
    done = run_with(tmp_path, OTHER)
    assert done.returncode != 0
    assert "out of memory" in done.stderr
