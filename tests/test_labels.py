import json
from pathlib import Path

import pytest
from transformers import DetrConfig

from hf_detr_panoptic import Category, LabelSpace
from hf_detr_panoptic.errors import LabelError
from hf_detr_panoptic.labels import default_color

MINE = LabelSpace(
    [
        Category("pipe", isthing=True, color=(1, 2, 3), supercategory="material"),
        Category("sand", isthing=False),
        Category("person", isthing=True),
    ]
)


def test_the_place_is_the_label() -> None:
    assert MINE.names == ("pipe", "sand", "person")
    assert [MINE.index(name) for name in MINE.names] == [0, 1, 2]
    assert MINE[1].name == "sand"
    assert (MINE.thing_labels, MINE.stuff_labels) == ({0, 2}, {1})
    assert MINE.columns == (0, 1, 2)
    assert "pipe" in MINE
    assert "brick" not in MINE


def test_names_and_kinds_make_a_space_the_same() -> None:
    again = LabelSpace([Category("pipe", True), Category("sand", False), Category("person", True)])
    assert again == MINE
    assert hash(again) == hash(MINE)
    assert again != LabelSpace([Category("pipe", True), Category("sand", True), Category("person", True)])
    assert again != LabelSpace([Category("sand", False), Category("pipe", True), Category("person", True)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelSpace([Category("a", True), Category("a", False)]), "'a' stands at labels 0 and 1"),
        (lambda: LabelSpace(["pipe"]), "expected a Category"),  # type: ignore[list-item]
        (lambda: Category(" ", True), "needs a name"),
        (lambda: Category("a", True, color=(0, 0, 256)), "three numbers from 0 to 255"),
        (lambda: Category("a", True, source="costum"), "Did you mean 'custom'"),
        (lambda: MINE.index("pipes"), "Did you mean 'pipe'"),
        (lambda: LabelSpace([Category("a", True)], columns=[0, 1]), "cannot sit at the columns"),
        (lambda: LabelSpace([Category("a", True), Category("b", True)], columns=[3, 3]), "cannot sit at"),
    ],
)
def test_what_is_no_space_says_why(make: object, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        make()  # type: ignore[operator]


def test_coco_is_what_coco_publishes(shared_data: Path) -> None:
    official = json.loads((shared_data / "panopticapi_sample/panoptic_coco_categories.json").read_text())
    ours = LabelSpace.coco()
    assert [(c.name, int(c.isthing), list(c.color or ()), c.supercategory) for c in ours] == [
        (c["name"], c["isthing"], c["color"], c["supercategory"]) for c in official
    ]
    assert LabelSpace.from_coco(official) == ours


def test_coco_has_80_things_and_53_stuff() -> None:
    assert len(LabelSpace.coco().thing_labels) == 80
    assert len(LabelSpace.coco().stuff_labels) == 53


def test_coco_categories_there_and_back() -> None:
    written = json.loads(json.dumps(MINE.to_coco()))
    assert [entry["id"] for entry in written] == [1, 2, 3]
    back = LabelSpace.from_coco(written)
    assert back == MINE
    assert back[0] == MINE[0]
    assert [category.source for category in back] == ["custom"] * 3


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"name": "a"}], r"categories\[0\]: .*needs 'id' and 'name'"),
        (["a"], "needs 'id' and 'name'"),
        ([{"id": "1", "name": "a"}], "not a whole number"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], r"categories\[1\]: the id 1 stands at categories\[0\]"),
    ],
)
def test_coco_categories_that_are_none(categories: list[object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        LabelSpace.from_coco(categories)  # type: ignore[arg-type]


def test_a_config_there_and_back() -> None:
    config = DetrConfig.from_dict(json.loads(json.dumps(DetrConfig(**MINE.to_config()).to_dict())))
    assert config.num_labels == 3
    assert config.label_ids_to_fuse == [1]
    back = LabelSpace.from_config(config)
    assert back == MINE
    assert back.columns == (0, 1, 2)
    assert back.categories == MINE.categories


def test_a_class_may_be_called_like_a_placeholder_in_our_own_config() -> None:
    odd = LabelSpace([Category("LABEL_0", True), Category("N/A", False)])
    assert LabelSpace.from_config(DetrConfig(**odd.to_config())) == odd


def test_detrs_sparse_columns_become_a_compact_space() -> None:
    # The pretrained panoptic DETR has 250 columns: a COCO id each, LABEL_n or N/A where COCO has none.
    id2label = {n: f"LABEL_{n}" for n in range(250)} | {1: "person", 12: "N/A", 184: "tree-merged", 90: "toothbrush"}
    space = LabelSpace.from_config({"id2label": id2label})
    assert space.names == ("person", "toothbrush", "tree-merged")
    assert space.columns == (1, 90, 184)
    assert [category.isthing for category in space] == [True, True, False]
    assert [category.source for category in space] == ["auto"] * 3
    assert space[0].color == (220, 20, 60)


def test_a_foreign_config_must_say_what_is_stuff() -> None:
    config = {"id2label": {0: "cat", 1: "mortar"}, "_name_or_path": "someone/model"}
    with pytest.raises(LabelError, match=r"someone/model: .* whether mortar are things or stuff"):
        LabelSpace.from_config(config)
    assert LabelSpace.from_config(config, stuff=["mortar"]).stuff_labels == {1}
    assert LabelSpace.from_config(config, stuff=[]).stuff_labels == set()
    assert LabelSpace.from_config(config | {"label_ids_to_fuse": [0]}).stuff_labels == {0}
    with pytest.raises(LabelError, match="Did you mean 'mortar'"):
        LabelSpace.from_config(config, stuff=["morter"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "no id2label"),
        ({"id2label": {0: "LABEL_0", 1: "LABEL_1"}}, "nameless placeholders"),
        ({"id2label": {0: "a"}, "hf_detr_panoptic": {"format": 99}}, "written in format 99"),
        ({"id2label": {0: "cat"}, "hf_detr_panoptic": {"format": 1, "colors": [None, None]}}, "colors has 2 entries"),
        ({"id2label": {0: "cat"}, "hf_detr_panoptic": {"format": 1, "colors": [[[], 0, 0]]}}, "is damaged"),
        ({"id2label": {"zero": "cat"}}, "is damaged"),
        ({"id2label": [1]}, "is damaged"),
        ({"id2label": {0: "cat"}, "hf_detr_panoptic": {"format": "one"}}, "is damaged"),
    ],
)
def test_configs_that_say_too_little(config: dict[str, object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        LabelSpace.from_config(config)


def test_mapping_gives_each_name_one_fate() -> None:
    assert MINE.mapping() == {"pipe": "pipe", "sand": "sand", "person": "person"}
    assert MINE.mapping(keep=["sand"]) == {"pipe": None, "sand": "sand", "person": None}
    assert MINE.mapping(drop=["sand"]) == {"pipe": "pipe", "sand": None, "person": "person"}
    assert MINE.mapping(keep=["sand"], merge={"object": ["pipe"]}, rename={"person": "worker"}) == {
        "pipe": "object",
        "sand": "sand",
        "person": "worker",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": ["sande"]}, "keep: no category is called 'sande'. Did you mean 'sand'"),
        ({"drop": ["persons"]}, "drop: .* Did you mean 'person'"),
        ({"merge": {"all": ["pip"]}}, "merge: all: .* Did you mean 'pipe'"),
        ({"rename": {"pip": "tube"}}, "rename: .* Did you mean 'pipe'"),
        ({"drop": ["pipe"], "merge": {"g": ["pipe"]}}, "'pipe' stands under drop and merge: g"),
        ({"keep": ["pipe"], "drop": ["pipe"]}, "'pipe' stands under keep and drop"),
        ({"merge": {"a": ["pipe"], "b": ["pipe"]}}, "merge: a and merge: b"),
        ({"rename": {"pipe": "person"}}, "'pipe' would become 'person', and so is 'person'"),
        ({"drop": "pipe"}, r"expected a list of names, got the text 'pipe'. Write \[pipe\]"),
        ({"merge": {"a": "pipe"}}, "expected a list of names"),
    ],
)
def test_mapping_refuses_before_anything_runs(settings: dict[str, object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        MINE.mapping(**settings)  # type: ignore[arg-type]


def test_a_dropped_name_is_free_for_a_rename() -> None:
    assert MINE.mapping(drop=["person"], rename={"pipe": "person"})["pipe"] == "person"


def test_merged_joins_by_name_and_the_persons_class_wins() -> None:
    space = LabelSpace.coco().merged(MINE, keep=["person", "sky-other-merged"])
    assert space.names == ("person", "sky-other-merged", "pipe", "sand")
    assert [category.source for category in space] == ["custom", "auto", "custom", "custom"]
    assert space[0].color == (220, 20, 60)


def test_merged_groups() -> None:
    things = [category.name for category in LabelSpace.coco() if category.isthing]
    space = LabelSpace.coco().merged(MINE, drop=["person"], merge={"misc": [t for t in things if t != "person"]})
    assert len(space) == 1 + 53 + 2  # misc, COCO's stuff (sand among it), the person's pipe and person
    assert space[space.index("misc")].isthing
    assert not space.merged(LabelSpace([]), stuff=["misc"])[space.index("misc")].isthing


def test_a_conflict_of_kinds_must_be_decided() -> None:
    other = LabelSpace([Category("sand", isthing=True)])
    with pytest.raises(LabelError, match=r"'sand' is a thing in one place .*things: \[sand\]"):
        MINE.merged(other)
    assert MINE.merged(other, things=["sand"])[1].isthing
    assert not MINE.merged(other, stuff=["sand"])[1].isthing
    with pytest.raises(LabelError, match="'group' is a thing in one place"):
        MINE.merged(LabelSpace([]), merge={"group": ["pipe", "sand"]})
    with pytest.raises(LabelError, match="Did you mean 'sand'"):
        MINE.merged(other, stuff=["sands"])
    with pytest.raises(LabelError, match="'sand' stands under things and stuff"):
        MINE.merged(other, stuff=["sand"], things=["sand"])


def test_default_colors_differ() -> None:
    assert len({default_color(label) for label in range(200)}) == 200
