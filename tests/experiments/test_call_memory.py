"""Memory of calls as it is predicted, against calls that run."""

import pytest
import torch
from tiny_plans import plan_of

from experiments import build
from experiments.call_memory import CallMemory, count_call_memory
from experiments.conditions import Vocabulary
from experiments.counts import Counts, ImageCounts, most
from experiments.stage import Machine
from ldm.metrics.distribution import bytes_to_compare
from ldm.metrics.extractors import load_extractor
from ldm.metrics.features import AT_ONCE_ON_CPU, Features, InceptionExtractor
from ldm.training.peak_memory import peak_bytes

THREE = Vocabulary(3)
N = 8


@pytest.mark.long
def test_calls_take_what_is_predicted_of_their_images():
    config = plan_of("ae.f=4", "guidance.scale=3", "samples.height=40", "samples.width=64").config
    found = count_call_memory(config, 3, THREE)
    model = build.first_stage(config["ae"], 32)
    conditions = build.conditioning(config["conditioning"], THREE, config["ae"])
    network = build.denoiser(config["denoiser"], 3, 8, conditions)
    context, extractor = torch.zeros(N, 1, conditions.context_dim), load_extractor(config["metrics"]["extractor"])
    calls = {
        "encode": lambda: model.encode(torch.zeros(N, 3, 32, 32)),
        "decode": lambda: model.decode(torch.zeros(N, 3, 8, 8)),
        "decode_sample": lambda: model.decode(torch.zeros(N, 3, 10, 16)),
        "denoise": lambda: network(torch.zeros(N, 3, 10, 16), torch.zeros(N), context),
        "extract": lambda: extractor(torch.zeros(N, 3, 32, 32, dtype=torch.uint8)),
    }
    with torch.no_grad():
        taken = {name: peak_bytes(call) for name, call in calls.items()}
    said = {name: found.once.get(name, 0) + N * each for name, each in found.image.items()}
    assert said == pytest.approx(taken, rel=0.1)
    assert found.weights["first_stage"] == 4 * build.parameters(model)
    assert found.weights["denoiser"] == 4 * (build.parameters(network) + build.parameters(conditions))
    assert found.halves == 2


@pytest.mark.long
def test_bf16_halves_what_passes_through_the_denoiser_alone():
    config = plan_of("ae.f=4", scale="cpu").config
    whole, half = (count_call_memory({**config, "precision": name}, 3, THREE) for name in ("fp32", "bf16"))
    conditions = build.conditioning(config["conditioning"], THREE, config["ae"])
    network = build.denoiser(config["denoiser"], 3, 8, conditions).to(memory_format=torch.channels_last)
    x, level, context = torch.zeros(N, 3, 8, 8), torch.zeros(N), torch.zeros(N, 1, conditions.context_dim)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        taken = peak_bytes(lambda: network(x, level, context))
    assert half.once["denoise"] + N * half.image["denoise"] == pytest.approx(taken, rel=0.2)
    assert {**half.image, "denoise": whole.image["denoise"]} == whole.image


def test_calls_one_after_the_other_hold_all_weights_and_the_images_of_one():
    memory = CallMemory({"first_stage": 100, "denoiser": 1000}, {"encode": 5, "decode": 7, "denoise": 3})
    assert memory.of({"encode": 4}) == 100 + 20
    assert memory.of({"encode": 4, "decode": 4}) == 100 + 28
    assert memory.of({"decode": 4, "denoise": 10}) == 1100 + 30
    assert memory.of({"decode": 4, "extract": 4}) is None


def test_a_call_that_looks_at_a_batch_in_parts_holds_one_part():
    memory = CallMemory({"first_stage": 100, "extractor": 10}, {"decode": 7, "extract": 50}, at_once={"extract": 4})
    assert memory.of({"decode": 20, "extract": 20}) == 110 + 200
    assert memory.of({"decode": 20, "extract": 2}) == 110 + 140


def test_without_the_extractors_weights_its_memory_is_not_known():
    config = plan_of("ae.f=4").config
    config = {**config, "metrics": {**config["metrics"], "extractor": "inception", "weights": "/nowhere.pth"}}
    assert "extract" not in count_call_memory(config, 3, THREE).image


def test_inception_looks_at_batches_in_parts_on_a_cpu_alone(monkeypatch):
    class Small(InceptionExtractor):
        def __init__(self):
            self.weights_hash = "none"

        def __call__(self, images):
            return Features(torch.zeros(len(images), 1000).numpy(), None)

    monkeypatch.setattr(build, "extractor", lambda settings, device: Small())
    config = plan_of("ae.f=4").config
    on_cpu, on_gpu = (count_call_memory({**config, "device": device}, 3, THREE) for device in ("cpu", "cuda"))
    assert on_cpu.at_once == {"extract": AT_ONCE_ON_CPU}
    assert on_gpu.at_once == {}
    assert on_cpu.features == {"extract": 1000}


@pytest.mark.long
def test_extractors_beside_the_plan_s_own_are_calls_of_their_own():
    config = plan_of(
        "ae.f=4", "metrics.extractor=efficientnet_lite2", "metrics.also.efficientnet_lite2_inner=true"
    ).config
    found, alone = (count_call_memory(each, 3, THREE) for each in (config, plan_of("ae.f=4").config))
    inner = load_extractor("efficientnet_lite2_inner")
    taken = peak_bytes(lambda: inner(torch.zeros(N, 3, 32, 32, dtype=torch.uint8)))
    assert found.others == ("extract efficientnet_lite2_inner",)
    assert N * found.image["extract efficientnet_lite2_inner"] == pytest.approx(taken, rel=0.1)
    assert found.of({"extract efficientnet_lite2_inner": N}) > found.weights["extract efficientnet_lite2_inner"]
    assert alone.others == ()
    assert "extract efficientnet_lite2_inner" not in alone.image


def comparing(judge="extract", device="cpu", reference=7):
    memory = CallMemory({}, {}, features={"extract": 5, "extract other": 9})
    machine = Machine(device, None, 1, None, 1.0)
    images = ImageCounts(3, 3, 8, THREE, reference=reference)
    return Counts(None, None, 0, 0.0, 0, machine, memory=memory, images=images).comparing(3, judge)


def test_comparing_takes_what_the_numbers_of_images_say_on_a_cpu_alone():
    assert comparing() == 4 * (3 + 7) * 5 + bytes_to_compare(3, 7, 5)
    assert comparing("extract other") == 4 * (3 + 7) * 9 + bytes_to_compare(3, 7, 9)
    assert [comparing(device="cuda"), comparing("extract none"), comparing(reference=None)] == [None] * 3


def test_the_most_of_what_is_not_known_is_not_known():
    assert most(3, 5, 4) == 5
    assert most(3, None) is None
