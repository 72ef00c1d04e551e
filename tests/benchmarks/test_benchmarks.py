"""The harness of benchmarks with stand-ins and a clock of our own: no time is asserted of anything that computes."""

import importlib.metadata
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import operators, paper
from benchmarks.__main__ import QUICK, main
from benchmarks.comparisons import COMPARISONS
from benchmarks.contest import Comparison, Contest
from benchmarks.timing import Paired, in_turn


class Clock:
    """A clock that calls move on."""

    def __init__(self) -> None:
        self.now, self.who = 0.0, list[str]()

    def __call__(self) -> float:
        return self.now

    def taking(self, who: str, *seconds: float) -> Callable[[], None]:
        """A call that takes these in turn, the last of them from then on."""
        left = list(seconds)

        def call() -> None:
            self.who.append(who)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_both_are_timed_in_turn_and_the_first_round_does_not_count() -> None:
    clock = Clock()
    timed = in_turn(clock.taking("ours", 50, 1, 2, 1), clock.taking("peer", 90, 2, 6, 4), 3, clock)
    assert (timed.ours, timed.peer) == ((1, 2, 1), (2, 6, 4))
    assert clock.who == ["peer", "ours", "ours", "peer", "peer", "ours", "ours", "peer"]
    assert (timed.ratios, timed.ratio, timed.spread) == ([2, 3, 4], 3, (2.5, 3.5))


def test_one_disturbed_round_moves_no_ratio() -> None:
    assert Paired((1, 1, 70, 1, 1), (2, 2, 2, 2, 2)).ratio == 2


def test_one_round_has_no_spread() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        in_turn(lambda: None, lambda: None, 1)


def stand_ins(device: str) -> Iterator[Contest]:
    """Work of no substance, beside torch."""
    yield Contest("small", lambda: None, lambda: None, "torch", 32)
    yield Contest("large", lambda: None, lambda: None, "torch", 64, flops=1e9)


KNOWN = {"one": Comparison("stand-ins", stand_ins), "gpu": Comparison("needs one", stand_ins, needs_gpu=True)}
FIELDS = {"name", "size", "ours", "peer", "peer_version", "unit", "ratio", "n", "spread", "machine", "versions"}


def test_rows_hold_what_was_compared_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    file = tmp_path / "rows.json"
    assert main(["--quick", "--json", str(file)], KNOWN) == 0
    assert "gpu: left out, since it needs a GPU" in capsys.readouterr().out
    small, large = json.loads(file.read_text())
    assert small.keys() > FIELDS
    assert (small["name"], small["size"], small["unit"], small["n"]) == ("one", "small", "images/s", QUICK)
    assert small["peer_version"] == f"torch {importlib.metadata.version('torch')}"
    assert small["spread"][0] <= small["ratio"] <= small["spread"][1]
    assert (small["teraflops"], large["teraflops"] > 0) == (None, True)
    assert small["machine"]
    assert small["versions"]["torch"] == torch.__version__


def test_an_unknown_name_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["onn"], KNOWN) == 2
    assert "there is no benchmark 'onn', did you mean 'one'" in capsys.readouterr().out


def test_a_peer_that_is_not_installed_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def contests(device: str) -> Iterator[Contest]:
        import no_such_peer  # noqa: F401

        yield from ()

    assert main(["one"], {"one": Comparison("", contests)}) == 2
    assert "one needs no_such_peer: pip install -e '.[dev]'" in capsys.readouterr().out


def test_every_name_that_is_promised_is_there() -> None:
    names = {"train_step_fp32", "train_step_default", "sample_fp32", "sample_default", "first_stage_step"}
    assert names | {"features_exact", "features_bf16", "ldm4", "ldm8", "dit_xl"} <= COMPARISONS.keys()
    assert {name for name, each in COMPARISONS.items() if each.needs_gpu} == {"ldm4", "ldm8", "dit_xl"}


@pytest.mark.long
@pytest.mark.parametrize("denoiser", ["unet", "dit"])
def test_what_is_asked_of_a_gpu_is_ready_and_both_are_the_same_network(denoiser: str) -> None:
    """With sizes of scale=tiny, on a CPU."""
    pytest.importorskip("diffusers")
    overrides = ("ae.f=4", f"denoiser={denoiser}", "precision=fp32")
    both = paper.both_models(overrides, "cpu", "tiny")
    x, label = torch.randn(2, both.channels, both.side, both.side), torch.tensor([3, 700])
    for parameter in both.model.network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)  # what begins at zero would hide what stands before it
    theirs = paper.peer_of(both.model.network, both.conditions, both.side)
    with torch.no_grad():
        ours = both.model.predict(x, torch.tensor(0.4), both.conditions({"label": label}))
        torch.testing.assert_close(theirs(x, torch.full((2,), 399), label), ours, rtol=0, atol=1e-4)
    [found] = paper.step_contests("", overrides, 4, "cpu", scale="tiny", is_compiled=False)
    assert found.flops is not None
    assert found.flops > 0
    found.ours()
    found.peer()


def test_shares_of_operators_are_of_the_whole_time() -> None:
    x, weight = torch.randn(8, 32, 32, 32), torch.randn(32, 32, 3, 3)
    seconds, found = operators.shares(lambda: torch.nn.functional.conv2d(x, weight, padding=1)[:1, :1, :1].exp())
    assert seconds > 0
    assert found["convolutions"] > found["element by element"] > 0
    assert operators.BETWEEN in found


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::addmm", "matrix products"),
        ("aten::native_group_norm_backward", "normalisation"),
        ("aten::linalg_vector_norm", "optimiser and averages"),
        ("aten::_foreach_norm", "optimiser and averages"),
        ("aten::normal_", "element by element"),
        ("ConvolutionBackward0", "convolutions"),
        ("torch::autograd::AccumulateGrad", "other operators"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_foreach_lerp_", "optimiser and averages"),
        ("aten::add_", "element by element"),
        ("aten::copy_", "copies, casts, layouts"),
        ("aten::nonesuch", "other operators"),
    ],
)
def test_operators_are_counted_by_their_kind(operator: str, kind: str) -> None:
    assert operators.kind_of(operator) == kind
