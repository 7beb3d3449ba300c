"""Group names and members are the construction set's own; sizes are counted in COCO's published list."""

from __future__ import annotations

import json

import pytest

from hf_detr_panoptic import Category, LabelSpace
from hf_detr_panoptic.annotations.marks import Mark, MarkedPhoto
from hf_detr_panoptic.errors import LabelError, RecipeError
from hf_detr_panoptic.labeling.schemes import (
    Scheme,
    namesakes,
    origins,
    partly_marked,
    said_of_namesakes,
    said_of_partly_marked,
    scheme,
)

COCO = LabelSpace.coco()
CUSTOM = LabelSpace([Category("wheel_loader", True), Category("pipe", True)])
STUFF_GROUPS = {
    *("water", "ground", "solid", "sky", "plant", "structural", "building", "food", "textile", "furniture"),
    *("window", "floor", "ceiling", "wall", "rawmaterial"),
}


def test_stuff_groups_are_those_of_the_construction_set():
    space = scheme("stuff_groups", COCO).space(COCO, CUSTOM)
    assert set(space.names) == {"misc", *STUFF_GROUPS, "wheel_loader", "pipe"}
    assert len(space) == 18
    assert {space[label].name for label in space.stuff_labels} == {"misc", *STUFF_GROUPS}
    assert {c.name for c in space if c.source == "custom"} == {"wheel_loader", "pipe"}
    fate = scheme("stuff_groups", COCO).mapping(COCO)
    assert [name for name, group in fate.items() if group == "water"] == ["river", "sea", "water-other"]
    assert (fate["truck"], fate["light"], fate["fruit"], fate["cardboard"]) == (
        "misc",
        "furniture",
        "food",
        "rawmaterial",
    )
    assert sum(group == "misc" for group in fate.values()) == 80


def test_stuff_groups_are_called_as_in_the_students_file(shared_data):
    sample = json.loads((shared_data / "tsai_construction" / "complete_sample" / "panoptic.json").read_text())
    theirs = {entry["name"] for entry in sample["categories"] if not entry["isthing"]}
    space = scheme("stuff_groups", COCO).space(COCO, CUSTOM)
    assert {space[label].name for label in space.stuff_labels} == theirs


def test_all_stuff_keeps_its_name_and_the_things_share_one():
    space = scheme("stuff", COCO).space(COCO, CUSTOM)
    assert len(space) == 1 + 53 + 2
    assert len(space.stuff_labels) == 54
    assert "sky-other-merged" in space.names
    assert not space[space.index("misc_stuff")].isthing
    assert scheme("coco", COCO).space(COCO, CUSTOM).names == (*COCO.names, "wheel_loader", "pipe")


def test_a_class_that_the_person_marks_stays_out_of_the_groups():
    custom = LabelSpace([Category("truck", True), Category("tent", False)])
    chosen = scheme("stuff_groups", COCO, leave=custom.names)
    assert chosen.mapping(COCO)["truck"] == "truck"
    space = chosen.space(COCO, custom)
    assert (space[space.index("truck")].isthing, space[space.index("truck")].source) == (True, "custom")
    assert (space[space.index("tent")].isthing, space[space.index("tent")].source) == (False, "custom")


def test_a_labeler_that_was_trained_by_a_scheme_goes_through_it_unchanged():
    trained = scheme("stuff_groups", COCO).space(COCO, CUSTOM)
    again = scheme("stuff_groups", trained, leave=CUSTOM.names)
    assert again == Scheme()
    assert again.space(trained, CUSTOM) == trained


def test_a_scheme_that_nobody_knows_and_one_that_contradicts_itself_are_refused():
    with pytest.raises(RecipeError, match="Did you mean 'stuff_groups'"):
        scheme("stuf_groups", COCO)
    with pytest.raises(LabelError, match="Did you mean 'truck'"):
        Scheme(drop=["trucks"]).mapping(COCO)


def test_namesakes_offer_a_new_name():
    same, spelled = namesakes(["light", "Traffic_Light", "loader"], COCO)
    assert (same.custom, same.labeler, same.new_name) == ("light", "light", "light (other)")
    assert str(same).endswith("part them: --rename 'light=light (other)'")
    parted = COCO.merged(LabelSpace([Category("light", True)]), rename={"light": same.new_name})
    assert parted[parted.index("light")].isthing
    assert not parted[parted.index("light (other)")].isthing
    assert (spelled.custom, spelled.labeler) == ("Traffic_Light", "traffic light")
    assert str(spelled).endswith("join them: --rename 'traffic light=Traffic_Light'")
    assert said_of_namesakes([same, spelled], 10) == [str(same), str(spelled)]


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [("tree", "tree-merged"), ("Sky", "sky-other-merged"), ("cars", "car"), ("traffic_lights", "traffic light")],
)
def test_what_looks_alike_is_offered(mine: str, theirs: str):
    (near,) = namesakes([mine], COCO)
    assert near.labeler == theirs
    assert str(near).endswith(f"--merge {mine}={theirs}" if " " not in theirs else f"--merge '{mine}={theirs}'")


def test_what_does_not_is_not():
    assert namesakes(["tree house", "bus stop", "glass", "pipe"], COCO) == []


def test_namesakes_of_a_model_that_knows_both_spellings_are_none_of_ours():
    both = LabelSpace([Category("Light", True), Category("light", False)])
    assert [(n.custom, n.labeler) for n in namesakes(["Light", "light"], both)] == [
        ("Light", "Light"),
        ("light", "light"),
    ]


def marked(photo: str, *names: str) -> MarkedPhoto:
    return MarkedPhoto(photo, 4, 4, tuple(Mark(name, None, (0, 0, 1, 1), False, photo) for name in names))


def test_classes_that_some_photos_lack_are_reported_with_those_photos():
    photos = [
        marked("a.jpg", "pipe", "pipe", "loader"),
        marked("b.jpg", "ignore", "loader"),
        marked("c.jpg", "loader", "pipe"),
        marked("d.jpg", "loader"),
    ]
    (pipe,) = partly_marked(photos)
    assert (pipe.name, pipe.marked, pipe.unmarked) == ("pipe", 2, ("b.jpg", "d.jpg"))
    (said,) = said_of_partly_marked([pipe], 10)
    assert said.startswith("'pipe' is marked on 2 of 4 photos. Where it stands unmarked, the model is taught")
    assert partly_marked([]) == []


def test_what_is_said_of_many_classes_is_said_once():
    names = [f"class {number}" for number in range(12)]
    photos = [marked("a.jpg", *names), marked("b.jpg", *names[2:]), marked("c.jpg")]
    what, first, second, third, *rest = said_of_partly_marked(partly_marked(photos), 10)
    assert what.startswith("12 of your classes are marked on some of 3 photos. Where one of them stands unmarked, the")
    assert (first, second) == ("  class 0  on 1, not on 2", "  class 1  on 1, not on 2")
    assert third == "  class 2  on 2, not on 1"
    assert [len(rest), rest[-1]] == [8, "… and 2 more classes"]
    what, bench, cat = said_of_namesakes(namesakes(["bench", "cat"], COCO), 10)
    assert what.startswith("2 names are your classes and the labeler's")
    assert (bench, cat) == ("  bench  --rename 'bench=bench (other)'", "  cat    --rename 'cat=cat (other)'")


def test_what_a_start_model_calls_the_classes_of_a_dataset():
    settings = {"scheme": "stuff_groups", "merge": {"plant": ["bench"], "rust": ["oxide"]}, "drop": ["sea"]}
    before = origins(settings | {"rename": {"hood": "bonnet", "person": "worker"}}, COCO, ["car"])
    assert before["worker"] == ["person"]
    assert before["water"] == ["river", "water-other"]
    assert "bench" in before["plant"]
    assert "tree-merged" in before["plant"]
    assert not {"person", "bench", "car"}.intersection(before["misc"])
    assert not {"bonnet", "rust"}.intersection(before)  # of another labeler
    assert origins({}, COCO, []) == {}
