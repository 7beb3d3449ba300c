from __future__ import annotations

import hashlib
import io
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset, read_split
from hf_detr_panoptic.dataset.writer import DatasetWriter, encode_ids, encode_map
from hf_detr_panoptic.errors import DatasetError

SPACE = LabelSpace([Category("pipe", True), Category("crack", True), Category("sky", False)])

id_maps = hnp.arrays(
    np.int32,
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    elements=st.sampled_from([0, 1, 2, 255, 256, 65_536, 256**3 - 1]),
)


def map_of(ids: np.ndarray) -> PanopticMap:
    found = [int(value) for value in np.unique(ids) if value]
    segments = [
        Segment(value, place % 3, score=0.5, source="auto", crowd=place % 4 == 3) for place, value in enumerate(found)
    ]
    return PanopticMap(ids, segments, SPACE)


@given(id_maps)
def test_pillow_and_opencv_read_our_png(ids: np.ndarray) -> None:
    png = encode_ids(ids)
    red, green, blue = np.moveaxis(np.asarray(Image.open(io.BytesIO(png))).astype(np.int64), 2, 0)
    assert np.array_equal(red + 256 * green + 65_536 * blue, ids)
    bgr = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(bgr[..., ::-1], np.stack([red, green, blue], axis=2))
    assert Image.open(io.BytesIO(png)).mode == "RGB"


@given(id_maps)
def test_boxes_areas_and_masks_are_those_of_the_pixels(ids: np.ndarray) -> None:
    map = map_of(ids)
    encoded = encode_map(map)
    assert len(encoded.segments) == len(map.segments)
    for entry, counts in zip(encoded.segments, encoded.rles, strict=True):
        mask = (ids == entry["id"]).astype(np.uint8)
        assert tuple(entry["bbox"]) == cv2.boundingRect(mask)
        assert entry["area"] == cv2.countNonZero(mask)
        assert np.array_equal(coco_mask.decode({"size": list(ids.shape), "counts": counts}), mask)
        assert all(type(value) is int for value in (entry["id"], entry["category_id"], entry["area"], *entry["bbox"]))


@settings(max_examples=30, deadline=None)
@given(st.lists(id_maps, min_size=1, max_size=4))
def test_what_is_written_is_read_again(many: list[np.ndarray]) -> None:
    maps = [map_of(ids) for ids in many]
    with tempfile.TemporaryDirectory() as folder:
        with DatasetWriter(folder, SPACE) as writer:
            for place, map in enumerate(maps):
                picture = Image.new("RGB", (map.width, map.height), (place, 0, 0))
                writer.add(["train", "val", "test"][place % 3], f"a/{place}.png", picture, map)
        read = [record for split in read_dataset(folder).values() for record in split]
        for record in read:
            assert record.map() == maps[int(Path(record.file_name).stem)]
            assert Image.open(record.photo).size == record.size[::-1]
    assert len(read) == len(maps)


def test_the_layout_is_coco_s(dataset: Path) -> None:
    files = {path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if path.is_file()}
    assert files == {
        *(f"images/p{n}.jpg" for n in range(5)),
        *(f"annotations/panoptic_train/p{n}.png" for n in (0, 1, 2)),
        *(f"annotations/panoptic_val/p{n}.png" for n in (3, 4)),
        *(f"annotations/{kind}_{split}.json" for kind in ("panoptic", "instances") for split in ("train", "val")),
    }
    content = json.loads((dataset / "annotations/panoptic_train.json").read_text())
    assert content["images"][0] == {"id": 1, "file_name": "p0.jpg", "width": 60, "height": 40}
    assert content["annotations"][0] == {
        "image_id": 1,
        "file_name": "p0.png",
        "segments_info": [
            {
                "id": 1, "category_id": 1, "iscrowd": 0, "area": 300, "bbox": [5, 20, 20, 15],
                "score": 1.0, "source": "custom",
            },
            {
                "id": 70_000, "category_id": 1, "iscrowd": 0, "area": 300, "bbox": [30, 20, 15, 20],
                "score": 0.9, "source": "custom",
            },
            {
                "id": 300, "category_id": 3, "iscrowd": 0, "area": 1200, "bbox": [0, 0, 60, 20],
                "score": 0.75, "source": "auto",
            },
        ],
    }  # fmt: skip
    assert [(c["id"], c["name"], c["isthing"]) for c in content["categories"]] == [
        (1, "pipe", 1), (2, "crack", 1), (3, "sky", 0)
    ]  # fmt: skip


def test_pycocotools_reads_the_instances(dataset: Path, small_map: PanopticMap) -> None:
    from pycocotools.coco import COCO

    coco = COCO(str(dataset / "annotations/instances_val.json"))
    assert len(coco.anns) == 6
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[4])):
        assert np.array_equal(coco.annToMask(annotation), small_map.mask(annotation["segment_id"]))
        assert annotation["bbox"] == list(small_map.boxes()[annotation["segment_id"]])


def test_photos_are_copied_byte_for_byte_and_stay_as_they_were(tmp_path, small_map, photo) -> None:
    source = photo(tmp_path / "in" / "a.jpg")
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    with DatasetWriter(tmp_path / "out", SPACE) as writer:
        writer.add("train", "a.jpg", source, small_map)
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before
    assert (tmp_path / "out/images/a.jpg").read_bytes() == source.read_bytes()
    assert [path.name for path in source.parent.iterdir()] == ["a.jpg"]


def test_a_turned_photo_is_stored_upright(tmp_path, small_map) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = Image.new("RGB", (40, 60), "white")  # lies on its side; upright it is 60 × 40, as its map
    raw.save(tmp_path / "a.jpg", exif=exif)
    with DatasetWriter(tmp_path / "out", SPACE) as writer:
        writer.add("train", "a.jpg", tmp_path / "a.jpg", small_map)
    with Image.open(tmp_path / "out/images/a.jpg") as stored:
        assert stored.size == (60, 40)
        assert stored.getexif().get(0x0112, 1) == 1


def test_a_photo_that_not_everyone_reads_becomes_a_png(tmp_path, small_map) -> None:
    Image.new("L", (60, 40), 7).save(tmp_path / "a.tif")
    with DatasetWriter(tmp_path / "out", SPACE) as writer:
        assert writer.add("train", "a.tif", tmp_path / "a.tif", small_map) == "a.png"
    (record,) = read_split(tmp_path / "out")
    with Image.open(record.photo) as stored:
        assert (stored.mode, stored.format, stored.getpixel((0, 0))) == ("RGB", "PNG", (7, 7, 7))


def test_what_does_not_fit_is_refused(tmp_path, small_map, photo) -> None:
    source = photo(tmp_path / "in" / "a.jpg")
    wide = photo(tmp_path / "in" / "wide.jpg", size=(61, 40))
    with DatasetWriter(tmp_path / "out", SPACE) as writer:
        writer.add("train", "a.jpg", source, small_map)
        with pytest.raises(DatasetError, match=r"A\.png"):
            writer.add("val", "A.png", source, small_map)
        with pytest.raises(DatasetError, match="61×40, its map 60×40"):
            writer.add("train", "wide.jpg", wide, small_map)
        with pytest.raises(DatasetError, match="leads out"):
            writer.add("train", "../b.jpg", source, small_map)
        with pytest.raises(DatasetError, match="image id is used twice"):
            writer.add("train", "c.jpg", source, small_map, image_id=1)
        with pytest.raises(DatasetError, match="label space"):
            writer.add("train", "d.jpg", source, small_map.relabelled(LabelSpace([*SPACE, Category("new", True)])))
        with pytest.raises(DatasetError, match="no split 'validation'"):
            writer.add("validation", "e.jpg", source, small_map)
    assert len(read_split(tmp_path / "out")) == 1


def test_a_crash_leaves_word_and_writing_again_mends_it(tmp_path, small_map, photo) -> None:
    source = photo(tmp_path / "in" / "a.jpg")

    def interrupted() -> None:
        with DatasetWriter(tmp_path / "out", SPACE) as writer:
            writer.add("train", "a.jpg", source, small_map)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.rglob("*.json"))
    with DatasetWriter(tmp_path / "out", SPACE) as writer:
        writer.add("train", "a.jpg", source, small_map)
    assert read_split(tmp_path / "out")[0].map() == small_map


def test_a_dataset_whose_rewriting_was_cut_off_is_not_read(dataset, small_map) -> None:
    DatasetWriter(dataset, SPACE)
    with pytest.raises(DatasetError, match="not written to its end"):
        read_split(dataset)


def test_written_again_it_holds_what_is_listed_and_nothing_else(dataset, small_map) -> None:
    with DatasetWriter(dataset, SPACE) as writer:
        writer.add("val", "p0.jpg", dataset / "images/p0.jpg", small_map)
    files = {path.relative_to(dataset).as_posix() for path in dataset.rglob("*.[jp][pn]g")}
    assert files == {"images/p0.jpg", "annotations/panoptic_val/p0.png"}
    assert len(read_split(dataset, "train")) == 0


def test_the_same_input_gives_the_same_bytes(tmp_path, small_map, photo) -> None:
    source = photo(tmp_path / "in" / "a.jpg")
    for out in ("one", "two"):
        with DatasetWriter(tmp_path / out, SPACE) as writer:
            writer.add("train", "a.jpg", source, small_map)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_what_somebody_else_wrote_is_never_overwritten(tmp_path, photo) -> None:
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/annotations/panoptic_train.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(DatasetError, match="another program"):
        DatasetWriter(tmp_path / "coco", SPACE)
    photo(tmp_path / "mine/images/a.jpg")
    with pytest.raises(DatasetError, match="no dataset of ours"):
        DatasetWriter(tmp_path / "mine", SPACE)


def test_a_linked_folder_is_not_emptied(dataset, small_map, tmp_path, photo) -> None:
    (dataset / "images").rename(tmp_path / "elsewhere")
    (dataset / "images").symlink_to(tmp_path / "elsewhere")
    with DatasetWriter(dataset, SPACE):
        pass
    assert len(list((tmp_path / "elsewhere").iterdir())) == 5
