"""Every folder of real files through its reader; the expected numbers are those that came with the files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import AnnotationError


def area(mark):
    return int(coco_mask.area(mark.rle))


def test_coco_panoptic_has_the_areas_and_boxes_of_its_json(shared_data):
    folder = shared_data / "panopticapi_sample" / "sample_data"
    told = json.loads((folder / "panoptic_examples.json").read_text())
    names = {category["id"]: category["name"] for category in told["categories"]}
    result = read_annotations(folder / "panoptic_examples.json", folder / "input_images", strict=True)
    found = [(m.name, area(m), list(m.box), m.crowd) for photo in result.photos for m in photo.marks]
    segments = [segment for annotation in told["annotations"] for segment in annotation["segments_info"]]
    assert found == [(names[s["category_id"]], s["area"], s["bbox"], bool(s["iscrowd"])) for s in segments]
    assert len(found) == 50
    # The same as instances, by compressed RLE.
    instances = read_annotations(folder / "panoptic_coco_detection_format.json", folder / "input_images", strict=True)
    again = [(m.name, area(m), list(m.box), m.crowd) for photo in instances.photos for m in photo.marks]
    assert again == found
    assert [[m.rle for m in p.marks] for p in instances.photos] == [[m.rle for m in p.marks] for p in result.photos]


def test_the_two_cats(shared_data, tmp_path):
    folder = shared_data / "transformers_fixtures" / "COCO"
    segments = json.loads((folder / "coco_panoptic_annotations.txt").read_text())
    entries = json.loads((folder / "coco_annotations.txt").read_text())
    file = {
        "images": [{"id": 39769, "file_name": "000000039769.jpg", "width": 640, "height": 480}],
        "categories": [{"id": i, "name": f"class {i}"} for i in {e["category_id"] for e in segments + entries}],
    }
    panoptic = {"image_id": 39769, "file_name": "000000039769.png", "segments_info": segments}
    (tmp_path / "panoptic.json").write_text(json.dumps(file | {"annotations": [panoptic]}))
    (tmp_path / "panoptic").mkdir()
    png = folder / "coco_panoptic" / "000000039769.png"
    (tmp_path / "panoptic" / png.name).write_bytes(png.read_bytes())
    (photo,) = read_annotations(tmp_path / "panoptic.json", folder, strict=True).photos
    assert photo.photo == "000000039769.png"
    assert [(area(m), list(m.box)) for m in photo.marks] == [(s["area"], s["bbox"]) for s in segments]
    (tmp_path / "instances.json").write_text(json.dumps(file | {"annotations": entries}))
    (photo,) = read_annotations(tmp_path / "instances.json", folder, strict=True).photos
    assert [area(m) for m in photo.marks] == pytest.approx([e["area"] for e in entries], rel=0.03)


def test_the_construction_set(shared_data):
    path = shared_data / "tsai_construction" / "coco_val_small.json"
    told = json.loads(path.read_text())
    result = read_annotations(path, None)
    # Seven auto-labelled slivers, drawn there and back, cover no pixel; they lie on six photos.
    aside = {row.photo for row in result.skipped}
    assert (len(result.photos), len(aside), len(result.skipped)) == (494, 6, 7)
    names = {image["id"]: image["file_name"] for image in told["images"]}
    left_out = sum(names[entry["image_id"]] in aside for entry in told["annotations"])
    marks = [mark for photo in result.photos for mark in photo.marks]
    assert len(marks) + left_out == len(told["annotations"]) == 1662
    boxes = [entry["bbox"] for entry in told["annotations"] if not entry["segmentation"]]
    found = [mark.box for mark in marks if mark.rle is None]
    np.testing.assert_allclose(found, boxes, atol=1e-9)
    assert len(found) == 3
    # The polygons that people drew in CVAT; CVAT computed their areas without pixels.
    drawn = {f"{path.name}, annotation {e['id']}": e["area"] for e in told["annotations"] if e.get("attributes")}
    ratios = [area(mark) / drawn[mark.where] for mark in marks if mark.where in drawn and mark.rle is not None]
    assert len(ratios) > 600
    assert np.mean(ratios) == pytest.approx(1, abs=0.01)
    with pytest.raises(AnnotationError, match="annotation 2658: it covers no pixel"):
        read_annotations(path, None, strict=True)


def test_photos_that_were_resized_or_lost(shared_data):
    folder = shared_data / "tsai_construction"
    result = read_annotations(folder / "coco_val_small.json", folder / "images")
    assert (result.photos, len(result.unmatched), len(result.skipped)) == ((), 496, 4)
    assert all("rescale=True" in row.fix for row in result.skipped)
    told = json.loads((folder / "subset_things_coco.json").read_text())
    heights = {image["id"]: image["height"] for image in told["images"]}
    result = read_annotations(folder / "subset_things_coco.json", folder / "images", rescale=True)
    assert [photo.height for photo in result.photos] == [800] * 4
    areas = [area(mark) for photo in result.photos for mark in photo.marks]
    scaled = [entry["area"] * (800 / heights[entry["image_id"]]) ** 2 for entry in told["annotations"]]
    assert areas == pytest.approx(scaled, rel=0.02)


def test_the_complete_sample(shared_data):
    folder = shared_data / "tsai_construction" / "complete_sample"
    told = json.loads((folder / "panoptic.json").read_text())
    (photo,) = read_annotations(folder / "panoptic.json", folder, strict=True).photos
    segments = told["annotations"][0]["segments_info"]
    pixels = np.asarray(Image.open(folder / "wheel_loader_10000.png")).astype(int) @ [1, 256, 65536]
    assert [area(mark) for mark in photo.marks] == [int((pixels == s["id"]).sum()) for s in segments]
    assert area(photo.marks[0]) == 2622
    (things,) = read_annotations(folder / "cvat_coco_things.json", folder, strict=True).photos
    assert [mark.name for mark in things.marks] == ["wheel_loader", "wheel_loader"]
    # The students' own rasteriser differs at the edge.
    custom = [area(m) for m in photo.marks if m.name == "wheel_loader"]
    assert sorted(map(area, things.marks)) == pytest.approx(sorted(custom), rel=0.02)


def test_the_files_that_went_wrong_are_readable(shared_data, tmp_path):
    listed = json.loads((shared_data / "tsai_construction" / "error.json").read_text())["error"]
    for entry in listed:
        image = entry["processing_data"]
        data = {"images": [image], "categories": [{"id": 1, "name": "it"}], "annotations": image.pop("annotations")}
        (tmp_path / "coco.json").write_text(json.dumps(data))
        (photo,) = read_annotations(tmp_path / "coco.json", None, strict=True).photos
        told = [annotation["area"] for annotation in data["annotations"]]
        assert [area(mark) for mark in photo.marks] == pytest.approx(told, rel=0.01)
    with pytest.raises(AnnotationError, match="no annotations found"):
        read_annotations(shared_data / "tsai_construction" / "error.json", None)


def test_rectangles_only(shared_data):
    folder = shared_data / "cvat_fire_smoke"
    told = json.loads((folder / "instances_default_subset.json").read_text())
    result = read_annotations(folder / "instances_default_subset.json", folder / "images", strict=True)
    marks = [mark for photo in result.photos for mark in photo.marks]
    assert (len(result.photos), len(marks), {mark.rle for mark in marks}) == (8, 54, {None})
    by_id = {f"instances_default_subset.json, annotation {entry['id']}": entry for entry in told["annotations"]}
    for mark in marks:
        assert mark.box == pytest.approx(by_id[mark.where]["bbox"], abs=0.02)


def test_masks_by_a_table_of_values(shared_data):
    folder = shared_data / "cvat_fire_smoke"
    result = read_annotations(
        folder / "masks", folder / "images", values={127: "fire", 254: "smoke"}, instances="whole", strict=True
    )
    for photo in result.photos:
        values = np.asarray(Image.open(folder / "masks" / photo.photo.replace(".jpg", ".png")))
        counted = {name: int((values == value).sum()) for value, name in ((127, "fire"), (254, "smoke"))}
        assert {mark.name: area(mark) for mark in photo.marks} == {n: a for n, a in counted.items() if a}
    assert sum(len(photo.marks) for photo in result.photos) == 15


@pytest.mark.parametrize("pattern", [None, "{stem}{class}.jpg"])
@pytest.mark.parametrize("instances", ["whole", "components"])
def test_jpeg_masks_named_by_photo_and_class(shared_data, pattern, instances):
    folder = shared_data / "dis_yolo_masks" / "data" / "train_sample"
    result = read_annotations(folder / "masks", folder / "images", pattern=pattern, instances=instances, strict=True)
    areas = Counter()
    for photo in result.photos:
        for mark in photo.marks:
            areas[photo.photo[:-4] + mark.name] += area(mark)
    # Pixels above 127 of each file, counted with numpy.
    assert areas == {
        "00044rebar": 87257,
        "00044spall": 309,
        "00054rebar": 125505,
        "001005crack": 20310,
        "001005spall": 63813,
        "01015crack": 4201,
    }
    assert sum(len(photo.marks) for photo in result.photos) == {"whole": 6, "components": 11}[instances]


def test_cvat_xml(shared_data):
    folder = shared_data / "datumaro_assets" / "cvat_dataset"
    project = read_annotations(
        folder / "for_images/export_project/annotations.xml", folder / "for_images/export_project/images", strict=True
    )
    triangle = coco_mask.frPyObjects([[1, 2, 3, 4, 6, 5]], 10, 10)[0]
    assert [(p.photo, p.marks[0].box, p.marks[0].rle) for p in project.photos] == [
        entry
        for subset in ("Test", "Train", "Validation")
        for entry in (
            (f"{subset}/img0.jpg", (0, 2, 4, 2), None),
            (f"{subset}/img1.jpg", tuple(coco_mask.toBbox(triangle)), triangle),
        )
    ]
    task = read_annotations(folder / "for_images/export_task/train.xml", folder / "for_images/export_task/images")
    assert [photo.photo for photo in task.photos] == ["img0.jpg"]
    assert [(row.photo, row.what) for row in task.skipped][1] == ("img1.jpg", "the class has no name ('')")
    video = read_annotations(folder / "for_video/annotations.xml", folder / "for_video/images", strict=True)
    assert [(p.photo, [m.box for m in p.marks]) for p in video.photos] == [
        ("frame_000010.png", [(3, 4, 7, 1)]),
        ("frame_000013.png", []),
        ("frame_000016.png", []),
    ]


def test_labelme_xml(shared_data):
    folder = shared_data / "datumaro_assets" / "labelme_dataset"
    (photo,) = read_annotations(folder, folder / "Images", strict=True).photos
    assert (photo.photo, photo.width, photo.height) == ("subset1/img1.png", 102, 77)
    assert [mark.name for mark in photo.marks] == ["window", "license plate", "o1", "q1", "b1", "m1", "hg"]
    for place, number in ((1, 1), (5, 5)):
        drawn = np.asarray(Image.open(folder / f"Masks/subset1/img1_mask_{number}.png"))[..., 3] > 0
        assert np.array_equal(coco_mask.decode(photo.marks[place].rle), drawn)
    assert (photo.marks[4].rle, photo.marks[4].box) == (None, (13, 19, 10, 11))
    assert area(photo.marks[0]) == 2 * 3


def test_masks_with_an_alpha_channel(shared_data):
    folder = shared_data / "deeplab2_pq"
    table = {92: "sky", 176: "tree", 255: "bird"}
    (photo,) = read_annotations(folder / "bird_gt.png", None, values=table, instances="whole", strict=True).photos
    values = np.asarray(Image.open(folder / "bird_gt.png"))[..., 0]
    assert [(m.name, area(m)) for m in photo.marks] == [(n, int((values == v).sum())) for v, n in table.items()]
    with pytest.raises(AnnotationError, match="'categories' is None"):
        read_annotations(folder / "cityscapes_dummy", None)


def test_no_file_changes(shared_data):
    folder = shared_data / "datumaro_assets"

    def digest():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [(path, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]

    before = digest()
    read_annotations(folder / "labelme_dataset", folder / "labelme_dataset" / "Images")
    read_annotations(folder / "cvat_dataset" / "for_video", folder / "cvat_dataset" / "for_video" / "images")
    assert digest() == before
