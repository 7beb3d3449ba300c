from __future__ import annotations

import csv
import errno
import json
import shutil
import textwrap
from pathlib import Path

import datasets
import numpy as np
import pytest
from made import TWO_PROCESSES, run_python, tree
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment, prepare
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.check import check_dataset
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.errors import DatasetError, HfDetrPanopticError, LabelError, ModelError, RecipeError
from hf_detr_panoptic.labeling.prepare import prepare_dataset
from hf_detr_panoptic.recipe import Recipe

pytestmark = pytest.mark.bits

SPACE = LabelSpace(
    [
        Category("sky", False, source="auto"),
        Category("truck", True, source="auto"),
        Category("person", True, source="auto"),
    ]
)


class Halves:
    """A labeler that sees sky above and a truck below, the truck at 0.7."""

    label_space = SPACE
    fingerprint = "halves"

    def __init__(self) -> None:
        self.photos = 0

    def segment(self, images, threshold):
        self.photos += len(images)
        maps = []
        for image in images:
            ids = np.ones((image.height, image.width), dtype=np.int32)
            ids[image.height // 2 :] = 2
            maps.append(PanopticMap(ids, [Segment(1, 0, 0.9, "model"), Segment(2, 1, 0.7, "model")], SPACE))
        return maps


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "skipped.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_road(site: Path, tmp_path: Path, tiny_labeler: Path, capsys) -> None:
    before = tree(site)
    words = ["--images", str(site / "photos"), "--annotations", str(site / "marks.json"), "--stuff", "crack"]
    assert main(["prepare", *words, "--labeler", str(tiny_labeler), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert tree(site) == before
    assert "6 photos: train " in said
    assert f"next: hf-detr-panoptic check {tmp_path / 'out'}" in said
    report = check_dataset(tmp_path / "out")
    assert report.ok, str(report)
    splits = read_dataset(tmp_path / "out")
    assert {name: len(split) for name, split in splits.items()} == {"train": 5, "val": 1}
    space = splits["train"].space
    assert (space[space.index("pipe")].isthing, space[space.index("crack")].isthing) == (True, False)
    told = json.loads((tmp_path / "out/prepare.json").read_text())
    assert told["settings"]["labeler"] == tiny_labeler.name
    custom = [
        (record.file_name, space[segment.label].name)
        for split in splits.values()
        for record in split
        for segment in record.segments
        if segment.source == "custom"
    ]
    assert len([name for _, name in custom if name == "pipe"]) == 6
    assert sorted(name for name, kind in custom if kind == "crack") == [f"site_000{n}.jpg" for n in (1, 3, 5)]
    assert any(segment.source == "auto" for split in splits.values() for r in split for segment in r.segments)
    everything = b"".join(tree(tmp_path / "out").values())
    assert str(tmp_path).encode() not in everything  # no path of this machine


def test_pixels_by_hand(tmp_path: Path) -> None:
    """A photo of 40×40, a mark of 10×10 in the upper left: the rest is the labeler's, or void where it is unsure."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40), "gray").save(tmp_path / "photos/a.png")
    entry = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]}
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 40}
    told = {"images": [image], "annotations": [entry], "categories": [{"id": 1, "name": "pipe"}]}
    (tmp_path / "marks.json").write_text(json.dumps(told))
    done = prepare(tmp_path / "photos", tmp_path / "out", tmp_path / "marks.json", labeler=Halves())
    assert done.tally.pixels["custom"] == 100
    assert done.tally.pixels["auto"] == 700  # sky
    assert done.tally.pixels["low score"] == 800  # 0.7 is less than 0.85
    (record,) = read_dataset(tmp_path / "out")["train"]
    assert [(s.source, s.score) for s in record.segments] == [("custom", 1.0), ("auto", 0.9)]
    # Lowered, the threshold brings the truck back without the labeler.
    labeler = Halves()
    again = prepare(tmp_path / "photos", tmp_path / "out", tmp_path / "marks.json", labeler=labeler, threshold=0.6)
    assert labeler.photos == 0
    assert (again.tally.pixels["auto"], again.tally.pixels["low score"]) == (1500, 0)


def test_the_same_bytes_twice_and_nothing_moves_when_photos_come(site: Path, tmp_path: Path) -> None:
    out, marks = tmp_path / "out", site / "marks.json"
    taken = sorted((site / "photos").iterdir())[2:4]
    for path in taken:
        path.rename(site / path.name)
    prepare(site / "photos", out, marks, labeler=Halves(), seed=3, batch_size=2)
    first = tree(out)
    prepare(site / "photos", out, marks, labeler=Halves(), seed=3, batch_size=2)
    assert tree(out) == first
    side = {r.file_name: (name, r.image_id) for name, split in read_dataset(out).items() for r in split}
    for path in taken:
        (site / path.name).rename(path)
    labeler = Halves()
    prepare(site / "photos", out, marks, labeler=labeler, seed=99, batch_size=2)
    now = {r.file_name: (name, r.image_id) for name, split in read_dataset(out).items() for r in split}
    assert len(now) == 6
    assert {name: now[name] for name in side} == side
    assert labeler.photos <= 4  # two new ones, and at most two more in their batches
    assert check_dataset(out).ok


def test_photos_without_annotation(site: Path, tmp_path: Path) -> None:
    Image.new("RGB", (50, 40)).save(site / "photos/nobody marked me.png")
    done = prepare(site / "photos", tmp_path / "skip", site / "marks.json", labeler=Halves())
    assert len(done.photos) == 6
    assert [(row["photo"], row["what"]) for row in rows(tmp_path / "skip")] == [
        ("nobody marked me.png", "no annotation")
    ]
    done = prepare(site / "photos", tmp_path / "auto", site / "marks.json", labeler=Halves(), unannotated="auto")
    assert len(done.photos) == 7
    assert rows(tmp_path / "auto") == []
    names = {
        record.original_file or record.file_name
        for split in read_dataset(tmp_path / "auto").values()
        for record in split
    }
    assert "nobody marked me.png" in names
    done = prepare(site / "photos", tmp_path / "none", labeler=Halves())
    assert len(done.photos) == 7


def test_what_is_wrong_is_set_aside_or_with_strict_stops(site: Path, tmp_path: Path) -> None:
    told = json.loads((site / "marks.json").read_text())
    told["annotations"][0]["segmentation"] = [[900, 900, 950, 900, 950, 950]]
    told["images"].append({"id": 77, "file_name": "lost.jpg", "width": 5, "height": 5})
    (site / "marks.json").write_text(json.dumps(told))
    torn = site / "photos/site_0002.jpg"
    torn.write_bytes(torn.read_bytes()[:-200])
    done = prepare(site / "photos", tmp_path / "out", site / "marks.json", labeler=Halves())
    assert len(done.photos) == 4
    found = {row["photo"]: row["what"] for row in rows(tmp_path / "out")}
    assert found.keys() == {"site_0000.jpg", "site_0002.jpg", "lost.jpg"}
    assert "damaged or cut off" in found["site_0002.jpg"]
    assert "no such photo" in found["lost.jpg"]
    with pytest.raises(HfDetrPanopticError, match="annotation 1"):
        prepare(site / "photos", tmp_path / "strict", site / "marks.json", labeler=Halves(), strict=True)
    told["annotations"].pop(0)
    told["images"].pop()
    (site / "marks.json").write_text(json.dumps(told))
    with pytest.raises(HfDetrPanopticError, match="site_0002.jpg"):
        prepare(site / "photos", tmp_path / "strict", site / "marks.json", labeler=Halves(), strict=True)
    assert not (tmp_path / "strict/annotations").exists()


def test_a_class_of_the_labelers_name_is_of_its_kind_unless_told(site: Path, tmp_path: Path) -> None:
    told = json.loads((site / "marks.json").read_text())
    told["categories"] = [{"id": 1, "name": "sky"}, {"id": 2, "name": "truck"}]
    (site / "marks.json").write_text(json.dumps(told))
    kinds = {}
    for name, settings in (("plain", {}), ("told", {"things": ["sky"], "stuff": ["truck"]})):
        done = prepare(site / "photos", tmp_path / name, site / "marks.json", labeler=Halves(), **settings)
        kinds[name] = {category.name: category.isthing for category in done.space}
    assert kinds["plain"] == {"sky": False, "truck": True, "person": True}
    assert kinds["told"] == {"sky": True, "truck": False, "person": True}


def test_the_persons_classes_renamed_joined_and_dropped(site: Path, tmp_path: Path) -> None:
    """Pipes are on all six photos, cracks on three. The labeler knows no pipe, and its truck is the person's lorry."""
    settings = {
        "rename": {"crack": "rift"},
        "merge": {"lorry": ["truck", "pipe"]},
        "threshold": 0.5,
        "stuff": ["crack"],
    }
    done = prepare(site / "photos", tmp_path / "out", site / "marks.json", labeler=Halves(), **settings)
    assert {c.name: (c.isthing, c.source) for c in done.space} == {
        "sky": (False, "auto"), "lorry": (True, "custom"), "person": (True, "auto"), "rift": (False, "custom")
    }  # fmt: skip
    assert done.tally.segments["lorry", "custom"] == 6
    assert done.tally.segments["rift", "custom"] == 3
    assert list(done.split.classes) == ["lorry", "rift"]
    gone = prepare(site / "photos", tmp_path / "gone", site / "marks.json", labeler=Halves(), drop=["crack", "truck"])
    assert gone.space.names == ("sky", "person", "pipe")
    assert gone.tally.pixels["void mark"] > 0
    assert gone.tally.incomplete == 0  # somebody looked at photos whose marks are of no use now


def test_a_name_that_both_have_is_the_labelers(site: Path, tmp_path: Path) -> None:
    told = json.loads((site / "marks.json").read_text())
    told["categories"] = [{"id": 1, "name": "truck"}, {"id": 2, "name": "persons"}]
    (site / "marks.json").write_text(json.dumps(told))
    done = prepare(site / "photos", tmp_path / "out", site / "marks.json", labeler=Halves(), rename={"truck": "lorry"})
    assert done.space.names == ("sky", "lorry", "person", "truck", "persons")
    assert "your 'persons' and the labeler's 'person' look alike" in str(done)
    assert "--merge persons=person" in str(done)
    words = {"merge": {"persons": ["person"]}, "rename": {"truck": "lorry"}}
    done = prepare(site / "photos", tmp_path / "out", site / "marks.json", labeler=Halves(), **words)
    assert done.space.names == ("sky", "lorry", "persons", "truck")
    assert "look alike" not in str(done)


def test_a_photo_whose_mark_cannot_be_read_is_not_unmarked(site: Path, tmp_path: Path) -> None:
    """Taken as the labeler sees it, it would teach that the person's object is something else."""
    told = json.loads((site / "marks.json").read_text())
    told["annotations"][0]["segmentation"] = [[900, 900, 950, 900, 950, 950]]
    (site / "marks.json").write_text(json.dumps(told))
    done = prepare(site / "photos", tmp_path / "out", site / "marks.json", labeler=Halves(), unannotated="auto")
    assert "site_0000.jpg" not in [photo.name for photo in done.photos]
    assert len(done.photos) == 5


def test_masks_among_the_photos_are_no_photos(site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "photos", tmp_path / "mixed")
    for name in ("site_0000", "site_0001"):
        size = Image.open(site / f"photos/{name}.jpg").size
        mask = np.zeros(size[::-1], dtype=np.uint8)
        mask[5:20, 5:20] = 255
        Image.fromarray(mask).save(tmp_path / f"mixed/{name}_pipe.png")
    settings = {"labeler": Halves(), "pattern": "{stem}_{class}.png", "unannotated": "auto"}
    done = prepare(tmp_path / "mixed", tmp_path / "out", tmp_path / "mixed", **settings)
    assert [photo.name for photo in done.photos] == [f"site_000{n}.jpg" for n in range(6)]
    assert done.tally.segments["pipe", "custom"] == 2


def test_yaml_says_the_same_as_flags_and_flags_override(site: Path, tmp_path: Path, tiny_labeler: Path) -> None:
    config = tmp_path / "prepare.yaml"
    config.write_text(
        f"images: {site / 'photos'}\nannotations: {site / 'marks.json'}\nout: {tmp_path / 'a/site'}\n"
        f"labeler: {tiny_labeler}\nscheme: stuff_groups\nstuff: [crack]\nmerge: {{traffic: [bus, car]}}\n"
        "rename: {truck: lorry}\nmin-area: 10\nvalidation: 0.34\n"
    )
    assert main(["prepare", "--config", str(config), "--validation", "0.5"]) == 0
    flags = ["--scheme", "stuff_groups", "--stuff", "crack", "--merge", "traffic=bus,car", "--rename", "truck=lorry"]
    flags += ["--min-area", "10", "--validation", "0.5", "--labeler", str(tiny_labeler)]
    places = ["--images", str(site / "photos"), "--annotations", str(site / "marks.json")]
    assert main(["prepare", *places, *flags, "--out", str(tmp_path / "b/site")]) == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    space = read_dataset(tmp_path / "a/site")["train"].space
    assert {"misc", "traffic", "lorry", "pipe", "crack"} <= set(space.names)
    assert "car" not in space.names


def test_a_recipe_says_all_that_prepare_can_say(site: Path, tmp_path: Path, tiny_labeler: Path) -> None:
    """Masks of grey values, as of concrete defects: without `values` nobody knows what 127 is."""
    (tmp_path / "masks").mkdir()
    for number, path in enumerate(sorted((site / "photos").iterdir())):
        mask = np.zeros(Image.open(path).size[::-1], dtype=np.uint8)
        mask[5:20, 5:20], mask[25:30, 5:20] = 127, 254 if number % 2 else 127
        Image.fromarray(mask).save(tmp_path / "masks" / f"{path.stem}.png")
    text = f"""
        output: {tmp_path / "run"}
        seed: 5
        data:
          images: {site / "photos"}
          annotations: {tmp_path / "masks"}
          labeler: {tiny_labeler}
          values: {{127: spalling, 254: rust}}
          stuff: [rust]
          instances: whole
          max_size: 48
          batch_size: 2
    """
    (tmp_path / "recipe.yaml").write_text(textwrap.dedent(text))
    recipe = Recipe.load(tmp_path / "recipe.yaml")
    done = prepare_dataset(recipe.prepare)
    assert done.settings.folder == tmp_path / "run" / "data" == recipe.prepared_folder
    assert done.settings.seed == 5
    assert (done.tally.segments["spalling", "custom"], done.tally.segments["rust", "custom"]) == (6, 3)
    assert not done.space[done.space.index("rust")].isthing
    assert {max(record.size) for split in read_dataset(tmp_path / "run/data").values() for record in split} == {48}


def test_a_dry_run_needs_no_model_and_writes_nothing(site: Path, tmp_path: Path, capsys) -> None:
    Image.new("RGB", (50, 40)).save(site / "photos/extra.png")
    told = json.loads((site / "marks.json").read_text())
    told["categories"].append({"id": 3, "name": "person"})
    told["annotations"].append(told["annotations"][0] | {"id": 99, "category_id": 3})
    told["images"].append({"id": 77, "file_name": "lost.jpg", "width": 5, "height": 5})
    (site / "marks.json").write_text(json.dumps(told))
    before = tree(tmp_path)
    words = ["--images", str(site / "photos"), "--annotations", str(site / "marks.json"), "--stuff", "crack"]
    assert main(["prepare", *words, "--out", str(tmp_path / "out"), "--dry-run"]) == 0  # the default labeler, offline
    said = capsys.readouterr().out
    assert tree(tmp_path) == before
    assert "6 photos would be labelled by facebook/detr-resnet-50-panoptic" in said
    assert "1 photo without annotation, extra.png first: left out" in said
    assert "135 classes, 3 of them yours:" in said  # COCO's 133, and pipe and crack
    assert "  pipe: thing, 6 marks" in said
    assert "  crack: stuff, 3 marks" in said
    assert "'person' is your class and the labeler's" in said
    assert "2 of your classes are marked on some of 6 photos." in said
    assert "  person  on 1, not on 5\n  crack   on 3, not on 3\n" in said
    assert "lost.jpg" in said
    assert "6 photos in 6 groups: train 5 (83%), val 1 (17%)" in said


def test_mix_and_max_size_and_test_part(site: Path, tmp_path: Path) -> None:
    prepare(site / "photos", tmp_path / "first", site / "marks.json", labeler=Halves())
    done = prepare(
        site / "photos",
        tmp_path / "second",
        site / "marks.json",
        labeler=Halves(),
        mix=tmp_path / "first",
        max_size=48,
        test=0.2,
    )
    splits = read_dataset(tmp_path / "second")
    measured = {record.file_name for part in ("val", "test") for record in splits[part]}
    unlike = [r for r in read_dataset(tmp_path / "first")["train"] if r.file_name not in measured]
    assert done.tally.mixed == sum(record.file_name.startswith("mix/") for record in splits["train"]) == len(unlike)
    assert not any(record.file_name.startswith("mix/") for part in ("val", "test") for record in splits[part])
    own = [r for split in splits.values() for r in split if not r.file_name.startswith("mix/")]
    assert {max(record.size) for record in own} == {48}
    assert len(splits["test"]) == 1
    report = check_dataset(tmp_path / "second")
    assert {kind for kind in report.findings if kind.endswith("-across")} <= {"copy-across", "near-copy-across"}
    with pytest.raises(DatasetError, match="into itself"):
        prepare(site / "photos", tmp_path / "second", labeler=Halves(), mix=tmp_path / "second")


def test_autolabel_then_overlay_gives_the_maps_of_prepare(site: Path, tmp_path: Path, tiny_labeler: Path) -> None:
    places = ["--images", str(site / "photos"), "--annotations", str(site / "marks.json")]
    assert main(["prepare", *places, "--labeler", str(tiny_labeler), "--out", str(tmp_path / "whole")]) == 0
    steps = tmp_path / "steps"
    assert main(["overlay", *places, "--out", str(steps)]) == 2  # nothing is labelled yet
    for shard in ("2/2", "1/2"):
        words = ["--labeler", str(tiny_labeler), "--out", str(steps), "--shard", shard]
        assert main(["autolabel", *places, *words]) == 0
    assert main(["overlay", *places, "--out", str(steps)]) == 0
    whole = {r.file_name: r.map() for split in read_dataset(tmp_path / "whole").values() for r in split}
    parts = {r.file_name: r.map() for r in read_dataset(steps)["train"]}
    assert parts == whole
    assert main(["split", str(steps)]) == 0
    assert set(read_dataset(steps)) == {"train", "val"}
    assert len(read_dataset(steps)["val"]) > 0


def test_our_own_model_proposes_custom_classes(site: Path, tmp_path: Path) -> None:
    space = LabelSpace([Category("pipe", True), Category("sky", False, source="auto")])

    class Trained(Halves):
        label_space = space
        fingerprint = "trained"

        def segment(self, images, threshold):
            ids = [np.ones((image.height, image.width), dtype=np.int32) for image in images]
            for one in ids:
                one[-20:] = 2
            return [PanopticMap(i, [Segment(1, 1, 0.9, "model"), Segment(2, 0, 0.95, "model")], space) for i in ids]

    prepare(site / "photos", tmp_path / "out", site / "marks.json", labeler=Trained())
    splits = read_dataset(tmp_path / "out")
    own = splits["train"].space
    pipes = [s for split in splits.values() for r in split for s in r.segments if own[s.label].name == "pipe"]
    assert {segment.source for segment in pipes} == {"custom", "auto"}
    assert {segment.score for segment in pipes if segment.source == "auto"} == {0.95}


@pytest.mark.parametrize("saved", [False, True])
def test_two_processes_give_the_bytes_of_one(saved: bool, site: Path, tmp_path: Path, tiny_labeler: Path) -> None:
    images = site / "photos"
    if saved:  # unpacked by one of the two
        photos = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(images.iterdir())]
        features = datasets.Features({"image": datasets.Image()})
        images = site / "saved"
        datasets.Dataset.from_dict({"image": photos}, features=features).save_to_disk(images)
    words = ["--images", str(images), "--annotations", str(site / "marks.json"), "--batch-size", "2"]
    words += ["--labeler", str(tiny_labeler)]
    module = ["-m", "hf_detr_panoptic.cli", "prepare", *words, "--out"]
    runs = [
        run_python(*launcher, *module, tmp_path / name / "site").stdout
        for launcher, name in (((), "one"), (TWO_PROCESSES, "two"))
    ]
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert runs[1].count("6 photos: train") == 1  # one of the two speaks
    assert runs[0].replace(str(tmp_path / "one"), "") == runs[1].replace(str(tmp_path / "two"), "")


# --- what a person may get wrong: one clear message each


def test_no_such_photos(tmp_path: Path, site: Path) -> None:
    with pytest.raises(HfDetrPanopticError, match=r"fotos: does not exist. Did you mean 'photos'\?"):
        prepare(site / "fotos", tmp_path / "out", labeler=Halves())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="there is no photo in the folder"):
        prepare(tmp_path / "empty", tmp_path / "out", labeler=Halves())
    with pytest.raises(DatasetError, match=r"mark\.json: there is no such file or folder"):
        prepare(site / "photos", tmp_path / "out", site / "mark.json", labeler=Halves())


def test_no_photo_matches(tmp_path: Path, site: Path) -> None:
    (tmp_path / "others").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "others/x.png")
    with pytest.raises(DatasetError, match=r"none of the 1 photos can be used .* First: .*no such photo"):
        prepare(tmp_path / "others", tmp_path / "out", site / "marks.json", labeler=Halves())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["photos", "photos/set", "photos/../photos"])
def test_the_dataset_may_not_lie_among_the_photos(site: Path, out: str) -> None:
    before = tree(site)
    with pytest.raises(DatasetError, match="would lie in the folder of the photos"):
        prepare(site / "photos", site / out, site / "marks.json", labeler=Halves())
    assert tree(site) == before


def test_what_lies_where_the_dataset_would_is_never_overwritten(site: Path, tmp_path: Path) -> None:
    (site / "photos").rename(site / "images")
    before = tree(site)
    with pytest.raises(DatasetError, match="the photos lie where the dataset would be written"):
        prepare(site / "images", site, site / "marks.json", labeler=Halves())
    shutil.copytree(site / "images", tmp_path / "mine/images")
    labeler = Halves()
    with pytest.raises(DatasetError, match="holds photos that are no dataset of ours"):
        prepare(site / "images", tmp_path / "mine", site / "marks.json", labeler=labeler)
    (tmp_path / "theirs/annotations").mkdir(parents=True)
    (tmp_path / "theirs/annotations/panoptic_train.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(DatasetError, match="another program wrote this dataset"):
        prepare(site / "images", tmp_path / "theirs", site / "marks.json", labeler=labeler)
    assert labeler.photos == 0  # said before the night, not after
    assert tree(site) == before


def test_a_labeler_that_is_not_there(site: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'./nowhere' is not a folder"):
        prepare(site / "photos", tmp_path / "out", labeler="./nowhere")
    with pytest.raises(ModelError, match=r"cannot be reached.*not in the cache") as caught:
        prepare(site / "photos", tmp_path / "out", labeler="facebook/detr-resnet-50-panoptic")
    for way in ("hf download", "copy that folder", "another model"):
        assert way in str(caught.value)


def test_a_labeler_that_does_not_say_what_is_stuff(site: Path, tmp_path: Path, tiny_labeler: Path) -> None:
    shutil.copytree(tiny_labeler, tmp_path / "labeler")
    config = json.loads((tmp_path / "labeler/config.json").read_text())
    for key in ("label_ids_to_fuse", "hf_detr_panoptic"):
        config.pop(key)
    names = {int(key): name for key, name in config["id2label"].items()} | {0: "gizmo"}
    config |= {"id2label": names, "label2id": {name: label for label, name in names.items()}}
    (tmp_path / "labeler/config.json").write_text(json.dumps(config))
    settings = {"annotations": site / "marks.json", "labeler": tmp_path / "labeler"}
    with pytest.raises(LabelError, match=r"whether gizmo are things or stuff.* --labeler-stuff"):
        prepare(site / "photos", tmp_path / "out", **settings)
    done = prepare(site / "photos", tmp_path / "out", **settings, labeler_stuff=["sky-other-merged"])
    assert [c.name for c in done.answers.space if not c.isthing] == ["sky-other-merged"]


def test_classes_that_cannot_be_joined(site: Path, tmp_path: Path) -> None:
    for settings, message in (
        ({"rename": {"pipes": "tube"}}, r"no category is called 'pipes'. Did you mean 'pipe'\?"),
        ({"rename": {"pipe": "tube"}, "drop": ["pipe"]}, "'pipe' stands under drop and rename"),
        ({"rename": {"truk": "lorry"}}, r"no category is called 'truk'. Did you mean 'truck'\?"),
        ({"merge": {"all": ["sky", "truck"]}}, "'all' is a thing in one place and stuff in another"),
        ({"stuff": ["pip"]}, r"no category is called 'pip'. Did you mean 'pipe'\?"),
        ({"drop": ["sky"], "keep": ["sky"]}, "'sky' is in keep and in drop"),
        ({"things": ["pipe"], "stuff": ["pipe"]}, "'pipe' is in things and in stuff"),
    ):
        labeler = Halves()
        with pytest.raises((LabelError, RecipeError), match=message):
            prepare(site / "photos", tmp_path / "out", site / "marks.json", labeler=labeler, **settings)
        assert labeler.photos == 0


def test_settings_that_make_no_sense(site: Path, tmp_path: Path) -> None:
    for settings, message in (
        ({"treshold": 0.9}, r"unknown key 'treshold'. Did you mean 'threshold'\?"),
        ({"threshold": 0.3}, r"threshold is 0.3. The labeler is run at 0.5"),
        ({"validation": 1.0}, "validation is 1.0, not below 1"),
        ({"validation": 0.6, "test": 0.4}, "leave nothing to train on"),
        ({"unannotated": "automatic"}, r"Did you mean 'auto'\?"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"stuff": [1]}, "Write a list of texts"),
        ({"min_area": "many"}, "Write a whole number"),
        ({"scheme": "coko"}, r"Did you mean 'coco'\?"),
    ):
        with pytest.raises(RecipeError, match=message):
            prepare(site / "photos", tmp_path / "out", labeler=Halves(), **settings)


def test_a_full_disk_is_one_sentence_and_then_it_continues(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hf_detr_panoptic.dataset.writer as writer

    prepare(site / "photos", tmp_path / "a/site", site / "marks.json", labeler=Halves())
    written = []

    def full(path, content):
        written.append(path)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_bytes(path, content)

    write_bytes = writer.write_bytes
    monkeypatch.setattr(writer, "write_bytes", full)
    with pytest.raises(HfDetrPanopticError, match=r"the disk is full. Make room and run the same command again"):
        prepare(site / "photos", tmp_path / "b/site", site / "marks.json", labeler=Halves())
    monkeypatch.undo()
    prepare(site / "photos", tmp_path / "b/site", site / "marks.json", labeler=Halves())
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_card_that_a_person_made_their_own_stays(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(site / "photos", out, site / "marks.json", labeler=Halves())
    card = (out / "README.md").read_text()
    assert "| pipe | thing | 6 | 0 |" in card
    (out / "README.md").write_text("mine")
    prepare(site / "photos", out, site / "marks.json", labeler=Halves())
    assert (out / "README.md").read_text() == "mine"


@pytest.mark.parametrize("dies_at", [1, 2, 3, 4])
def test_killed_between_the_lists_of_a_grown_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grown_sites, dies_at: int
) -> None:
    """Half of the lists are new, half old: the next run must go by the split that was there before both."""
    import hf_detr_panoptic.dataset.writer as writer

    half, whole = grown_sites
    for name in ("undisturbed", "killed"):
        prepare(half / "photos", tmp_path / name / "site", whole / "marks.json", labeler=Halves(), validation=0.4)
    settings = {"annotations": whole / "marks.json", "labeler": Halves(), "validation": 0.4}
    prepare(whole / "photos", tmp_path / "undisturbed/site", **settings)
    calls = []

    def dying(*args):
        calls.append(args)
        if len(calls) == dies_at:
            raise KeyboardInterrupt
        write_lists(*args)

    write_lists = writer.write_lists
    monkeypatch.setattr(writer, "write_lists", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare(whole / "photos", tmp_path / "killed/site", **settings)
    monkeypatch.undo()
    prepare(whole / "photos", tmp_path / "killed/site", **settings)
    assert tree(tmp_path / "killed") == tree(tmp_path / "undisturbed")
