"""Conditions in plans: what data must have, whose conditions are asked, what changes which identity."""

import dataclasses

import pytest
from tiny_plans import FACTS, changed, plan_of

from experiments.conditions import CONDITIONS, Vocabulary, annotations_read
from ldm.data.contract import Annotation
from ldm.errors import UserError

ALL = {
    "captions": Annotation("captions"),
    "boxes": Annotation("boxes", ("cat", "dog")),
    "semantic": Annotation("maps", ("background", "cat", "dog")),
}
ANNOTATED = dataclasses.replace(FACTS, annotations=ALL, heldout_annotations=ALL)
FROM_SAMPLES_ON = {"progress", "samples", "evaluation"}


def test_guidance_by_label_maps_is_the_scales():
    found = [
        plan_of("conditioning=semantic", scale=scale, facts=ANNOTATED).config["guidance"]["scale"]
        for scale in ("cpu", "tiny", "gpu")
    ]
    assert found == [2, 1, 1]


def told(conditioning, *overrides, facts=ANNOTATED):
    return plan_of(f"conditioning={conditioning}", *overrides, facts=facts)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_is_planned_with_the_scales_sizes(condition):
    plan = told(condition)
    assert plan.axes["conditioning"] == condition
    settings = plan.config["conditioning"][condition]
    assert None not in [value for key, value in settings.items() if key != "encoder"]
    assert plan.config["samples"]["conditions"] == ("train" if condition == "class" else "heldout")


@pytest.mark.long
def test_conditions_that_are_given_together_are_one_cell_in_any_order():
    plan = told("[class,semantic]")
    assert plan.axes["conditioning"] == "class+semantic"
    assert not changed(plan, told("[semantic,class]"))
    assert "diffusion" in changed(plan, told("semantic"))


@pytest.mark.parametrize(
    ("overrides", "task"),
    [
        (["class"], None),
        (["superres", "conditioning.superres.scale=8"], "bicubic, 8 times"),
        (["inpaint", "conditioning.inpaint.masks=[thin,box]"], "masks thin, box"),
        (["[class,superres,inpaint]"], "bicubic, 4 times; masks thin, medium, thick, box"),
    ],
)
def test_the_axis_task_says_what_an_image_lacks(overrides, task):
    assert told(*overrides).axes["task"] == task


@pytest.mark.long
def test_concatenated_conditions_leave_the_denoiser_without_cross_attention():
    tables = plan_of(scale="cpu").config["scale"]["denoiser"]
    for condition in CONDITIONS:
        table = tables["unet" if CONDITIONS[condition].gives_tokens else "unet_unconditional"][4]
        found = plan_of("ae.f=4", f"conditioning={condition}", scale="cpu", facts=ANNOTATED).config["denoiser"]
        assert {key: found[key] for key in table} == table


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["conditioning=text"], ["conditioning=text needs a caption", "data=emoji has none"]),
        (["conditioning=layout"], ["conditioning=layout needs bounding boxes"]),
        (["conditioning=[class,semantic]"], ["conditioning=semantic needs a label map"]),
        (["conditioning=superres", "guidance.scale=2"], ["conditioning.dropout=0.1"]),
        (["conditioning=superres", "conditioning.superres.scale=3"], ["conditioning.superres.scale=3", "2, 4, 8"]),
        (["conditioning=inpaint", "conditioning.inpaint.masks=[thinn]"], ["masks=['thinn']", "thin, medium"]),
        (["conditioning=class", "samples.paste_known=true"], ["paste_known=true needs conditioning=inpaint"]),
        (["conditioning=class", "samples.conditions=test"], ["samples.conditions=test", "train, heldout"]),
    ],
)
def test_what_cannot_be_told_is_refused(overrides, words):
    with pytest.raises(UserError) as caught:
        plan_of(*overrides)
    assert all(word in str(caught.value) for word in words), caught.value


def test_first_stages_are_shared_by_all_conditions():
    for condition in CONDITIONS.keys() - {"class"}:
        assert not {"first_stage", "reconstruction", "latents"} & changed(told("class"), told(condition))


def test_an_annotation_changes_what_reads_it_and_nothing_else():
    other = {**ALL, "captions": Annotation("other captions")}
    trained = dataclasses.replace(ANNOTATED, annotations=other)
    assert changed(told("text"), told("text", facts=trained)) == {"diffusion", "probe", *FROM_SAMPLES_ON}
    asked = dataclasses.replace(ANNOTATED, heldout_annotations=other)
    assert changed(told("text"), told("text", facts=asked)) == {"probe", *FROM_SAMPLES_ON}
    for facts in (trained, asked):
        assert not changed(told("layout"), told("layout", facts=facts))


def test_whose_conditions_are_asked_changes_samples_alone():
    assert changed(told("class"), told("class", "samples.conditions=heldout")) == FROM_SAMPLES_ON


def test_only_annotations_that_are_read_are_looked_at():
    class Unread(dict):
        def __getitem__(self, kind):
            raise AssertionError(f"{kind} was read")

    facts = dataclasses.replace(FACTS, annotations=Unread(ALL), heldout_annotations=Unread(ALL))
    assert told("class", facts=facts).axes["conditioning"] == "class"
    for condition, counts in (("[class,layout]", {"box_classes": 2}), ("semantic", {"semantic_classes": 3})):
        read = annotations_read(told(condition).config)
        assert ANNOTATED.vocabulary(read) == Vocabulary(3, **counts)


def test_data_without_classes_keeps_its_other_conditions():
    plan = told("[class,text]", facts=dataclasses.replace(ANNOTATED, classes=()))
    assert plan.axes["conditioning"] == "text"
    assert any("without them beside text" in note for note in plan.notes)


def test_a_frozen_encoder_has_sizes_of_its_own(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    plan = told("text", f"conditioning.text.encoder={tmp_path}")
    assert plan.config["conditioning"]["text"]["dim"] is None
    before = plan.stages["diffusion"].identity
    copied = tmp_path / "copy"
    copied.mkdir()
    (copied / "config.json").write_text("{}")
    assert told("text", f"conditioning.text.encoder={copied}").stages["diffusion"].identity == before
