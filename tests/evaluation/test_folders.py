"""Two folders of PNG files and their JSONs: equal to the maps in memory, and wrong files named."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic.errors import DatasetError
from hf_detr_panoptic.evaluation.quality import PanopticQuality, Side, _counted, _PairOfFiles, evaluate_folders
from hf_detr_panoptic.evaluation.table import format_table, write_per_class
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.panoptic_map import PanopticMap, Segment, ids_to_rgb
from hf_detr_panoptic.watch import LostProcessError

SPACE = LabelSpace([Category("pipe", isthing=True), Category("sky", isthing=False), Category("rust", isthing=True)])
CATEGORY = (70, 3, 11)  # the files' own ids, in no order


def maps(count=7):
    """Pairs of maps: a pipe over a sky, the prediction a column off, more and more."""
    cases = []
    for shift in range(count):
        truth, guess = np.full((2, 6, 10), 300, dtype=np.int32)
        truth[2:4, 1:9] = 7
        guess[2:4, 1 + shift : 9] = 65536
        truth[5] = 0
        made = [
            PanopticMap(ids, [Segment(300, 1, source="auto"), Segment(pipe, 0)], SPACE)
            for ids, pipe in ((guess, 65536), (truth, 7))
        ]
        cases.append((made[0], made[1]))
    return cases


def write(folder: Path, name: str, side: int, cases) -> Side:
    annotations = []
    (folder / name).mkdir()
    for image_id, case in enumerate(cases):
        chosen = case[side]
        Image.fromarray(ids_to_rgb(chosen.ids)).save(folder / name / f"{image_id}.png")
        info = [
            {
                "id": segment.id,
                "category_id": CATEGORY[segment.label],
                "area": chosen.areas()[segment.id],
                "iscrowd": 0,
                "source": segment.source,
            }
            for segment in chosen.segments
        ]
        annotations.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": info})
    categories = [
        {"id": CATEGORY[label], "name": category.name, "isthing": int(category.isthing), "source": category.source}
        for label, category in enumerate(SPACE)
    ]
    (folder / f"{name}.json").write_text(json.dumps({"annotations": annotations, "categories": categories}))
    return Side.at(folder / f"{name}.json")


@pytest.fixture
def sides(tmp_path):
    cases = maps()
    return write(tmp_path, "guess", 0, cases), write(tmp_path, "truth", 1, cases)


def change(side: Side, edit) -> None:
    content = json.loads(side.json.read_text())
    edit(content)
    side.json.write_text(json.dumps(content))


@pytest.mark.parametrize("workers", [None, 3])
def test_equal_to_the_maps_in_memory(sides, workers):
    quality = PanopticQuality(SPACE)
    for case in maps():
        quality.update(*case)
    assert evaluate_folders(*sides, workers=workers) == {**quality.compute(), "images": 7}
    assert 0 < quality.compute()["things"]["pq"] < 1


def test_the_folder_may_have_another_name(sides, tmp_path):
    expected = evaluate_folders(*sides)
    moved = sides[0].folder.rename(tmp_path / "elsewhere")
    assert evaluate_folders(Side.at(sides[0].json, moved), sides[1]) == expected


def test_stated_areas_on_request(sides):
    exact = evaluate_folders(*sides)
    assert evaluate_folders(*sides, json_areas=True) == exact

    def stale(content):
        content["annotations"][0]["segments_info"][1]["area"] = 20

    change(sides[1], stale)
    assert evaluate_folders(*sides) == exact
    assert evaluate_folders(*sides, json_areas=True)["things"]["sq"] < exact["things"]["sq"]


def test_a_spare_prediction_does_not_count(sides, caplog):
    change(sides[1], lambda content: content["annotations"].pop())
    assert evaluate_folders(*sides)["images"] == 6
    assert "1 predicted images are not in truth.json" in caplog.text


@pytest.mark.parametrize(
    ("which", "edit", "message"),
    [
        (0, lambda c, a: a.pop(), r"guess.json: 1 of 7 images have no prediction, image 6 first"),
        (0, lambda c, a: a.append(a[0]), r"guess.json, image 0: an image is annotated twice"),
        (0, lambda c, a: a[2]["segments_info"][0].update(category_id=1), r"image 2: the prediction: .*category 1"),
        (0, lambda c, a: a[3]["segments_info"].pop(), r"image 3: the prediction: id 65536 is in the pixels"),
        (1, lambda c, a: a[1]["segments_info"].append({"id": 9, "category_id": 3}), r"truth: segment 9 .* no pixel"),
        (1, lambda c, a: a[4]["segments_info"].append(a[4]["segments_info"][0]), r"image 4: the truth: .* twice"),
        (1, lambda c, a: c.pop("categories"), r"truth.json: the JSON is not COCO panoptic: 'categories' is missing"),
        (
            1,
            lambda c, a: a[0].pop("segments_info"),
            r"annotations\[0\]: .*an annotation needs",
        ),
        (1, lambda c, a: a[5].update(file_name="gone.png"), r"image 5: .*gone.png cannot be read"),
    ],
)
def test_wrong_files_are_named(sides, which, edit, message):
    change(sides[which], lambda content: edit(content, content["annotations"]))
    with pytest.raises(DatasetError, match=message):
        evaluate_folders(*sides)


def test_another_size_is_named_from_a_worker_too(sides):
    Image.fromarray(ids_to_rgb(np.array([[300, 65536]]))).save(sides[0].folder / "4.png")
    for workers in (1, 2):
        with pytest.raises(DatasetError, match="the prediction is 2×1 pixels, the truth 10×6") as raised:
            evaluate_folders(*sides, workers=workers)
        assert raised.value.where == "truth.json, image 4"


def test_the_files_of_panopticapi_agree_with_themselves(shared_data):
    folder = shared_data / "panopticapi_sample" / "sample_data"
    side = Side.at(folder / "panoptic_examples.json")
    result = evaluate_folders(side, side, json_areas=True)
    assert (result["pq"], result["images"]) == (1.0, 2)
    assert sum(row["tp"] for row in result["per_class"]) == 47  # 50 segments, 3 of them crowds


# --- on paper


def test_the_table_says_what_is_measured(sides, tmp_path):
    result = evaluate_folders(*sides)
    text = format_table(result)
    assert text.splitlines()[0] == "panoptic quality"
    assert "agreement with the labeler" in text
    things = next(line for line in text.splitlines() if line.startswith("things"))
    assert things.split()[1:4] == [f"{100 * result['things'][key]:.1f}" for key in ("pq", "sq", "rq")]
    assert not any(line.startswith("rust") for line in text.splitlines())
    assert text.endswith("and 1 class that occurs on neither side")
    write_per_class(result, tmp_path / "new" / "classes.csv")
    header, pipe, sky, rust = (tmp_path / "new" / "classes.csv").read_text().splitlines()
    assert header == "label,name,isthing,yours,pq,sq,rq,tp,fp,fn"
    assert pipe.startswith(f"0,pipe,True,True,{result['per_class'][0]['pq']}")
    assert rust == "2,rust,True,True,,,,0,0,0"
    assert sky.startswith("1,sky,False,True,")


def test_truth_of_the_labeler_alone_is_called_agreement(sides):
    result = evaluate_folders(*sides)
    only_auto = {**result, "sources": {"auto": result["sources"]["auto"]}}
    assert format_table(only_auto).splitlines()[0] == "agreement with the labeler"


@pytest.mark.parametrize("json_areas", [False, True])
def test_classes_that_nobody_looked_for_are_left_out_as_in_memory(sides, json_areas):
    incomplete = [[], ["sky"], ["pipe"], ["pipe", "rust"], [], ["sky", "pipe"], ["rust"]]
    change(
        sides[1],
        lambda content: content.update(
            images=[{"id": n, **({"incomplete": names} if names else {})} for n, names in enumerate(incomplete)]
        ),
    )
    quality = PanopticQuality(SPACE)
    for (prediction, truth), names in zip(maps(), incomplete, strict=True):
        quality.update(prediction, truth, incomplete=names)
    result = evaluate_folders(*sides, json_areas=json_areas)
    assert result == {**quality.compute(), "images": 7}
    assert [row["tp"] + row["fn"] for row in result["per_class"]] == [4, 5, 0]


class Deadly(type(Path())):  # type: ignore[misc]
    """A file that memory runs out on: the system kills who reads it."""

    def stat(self, **options):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no such signal")
def test_a_worker_that_dies_is_an_error_and_no_hang():
    pair = _PairOfFiles("a photo", (Deadly("a.png"), []), (Deadly("a.png"), []), (1,), False)
    with pytest.raises(LostProcessError, match="is gone"):
        list(_counted([pair] * 4, workers=2))
    assert not multiprocessing.active_children()
