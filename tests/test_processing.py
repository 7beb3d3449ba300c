"""The callables for `dataset.map`: on maps small enough to be drawn by hand, and against stock's image processor."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import masks_to_boxes
from transformers import DetrImageProcessor

from hf_detr_panoptic import AutoLabel, BoxesFromMasks, DetrPanopticProcessor, MergeMarks
from hf_detr_panoptic.annotations.marks import Mark
from hf_detr_panoptic.dataset.rows import to_panoptic_map
from hf_detr_panoptic.errors import AnnotationError, HfDetrPanopticError, LabelError, MapError
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.panoptic_map import PanopticMap, Segment, ids_to_rgb
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import OverlayRules

pytestmark = pytest.mark.bits

COCO = LabelSpace([Category("car", isthing=True), Category("sky", isthing=False)])
SITE = LabelSpace([Category("pipe", isthing=True), Category("sky", isthing=False)])


class RedIsCar:
    """A labeler: what is red is a car of score 0.9, all else void. It takes photos of one size only."""

    label_space = COCO
    fingerprint = "red"

    def segment(self, images: Any, threshold: float) -> list[PanopticMap]:
        assert len({image.size for image in images}) == 1
        found = []
        for image in images:
            red = np.asarray(image)[..., 0] > 128
            found.append(PanopticMap(red.astype(np.int32), [Segment(1, 0, 0.9, "model")] * bool(red.any()), COCO))
        return found


def photo(width: int, height: int, red: tuple[slice, slice] | None = None) -> Image.Image:
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    if red is not None:
        pixels[red] = (255, 0, 0)
    return Image.fromarray(pixels)


def png(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def photos(*images: Any) -> datasets.Dataset:
    columns = datasets.Features({"image": datasets.Image(), "name": datasets.Value("string")})
    return datasets.Dataset.from_dict(
        {"image": list(images), "name": [f"photo {number}" for number in range(len(images))]}, features=columns
    )


TOP = (slice(0, 1), slice(None))


# --- AutoLabel


def test_a_photo_and_a_list_of_photos() -> None:
    label = AutoLabel(RedIsCar())
    scene = label(photo(3, 2, TOP))
    assert scene.ids.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert scene.segments == (Segment(1, 0, 0.9, "auto"),)
    several = label([photo(3, 2, TOP), photo(2, 3), photo(3, 2)])  # of two sizes
    assert [(one.width, one.height, len(one.segments)) for one in several] == [(3, 2, 1), (2, 3, 0), (3, 2, 0)]


def test_a_photo_in_every_form(tmp_path: Path) -> None:
    label = AutoLabel(RedIsCar())
    content = png(photo(3, 2, TOP))
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    forms = [content, path, str(path), np.asarray(photo(3, 2, TOP)), {"bytes": content, "path": None}]
    forms += [{"bytes": None, "path": str(path)}]
    for form in forms:
        assert label(form).ids.tolist() == [[1, 1, 1], [0, 0, 0]]
    with pytest.raises(HfDetrPanopticError, match="no photo is under foto"):
        label({"foto": content})


def test_the_map_is_of_the_upright_photo() -> None:
    """Orientation 6: the stored rows are the columns of what is seen, the first one on the right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = png(photo(3, 2, TOP), exif=exif)
    upright = [[0, 1], [0, 1], [0, 1]]
    label = AutoLabel(RedIsCar())
    assert label(turned).ids.tolist() == upright
    rows = photos({"bytes": turned, "path": None})
    for column in (datasets.Image(), datasets.Image(decode=False)):
        done = rows.cast_column("image", column).map(label, features=label.features(rows.features))
        assert map_at(done, 0, COCO).ids.tolist() == upright


def map_at(rows: datasets.Dataset, index: int, space: LabelSpace) -> PanopticMap:
    """As `load_panoptic`'s rows are read."""
    return to_panoptic_map({"image_id": index, "file_name": "", **rows[index]}, space)


@pytest.mark.parametrize("options", [{}, {"batched": True, "batch_size": 2}, {"batched": True, "num_proc": 2}])
def test_a_dataset_is_labelled(options: dict[str, Any]) -> None:
    """The first batch finds nothing at all: the columns' types come from `features`."""
    rows = photos(photo(3, 2), photo(2, 3), photo(3, 2, TOP), photo(2, 2, TOP))
    label = AutoLabel(RedIsCar())
    done = rows.map(label, features=label.features(rows.features), **options)
    assert done.column_names == ["image", "name", "panoptic", "segments"]
    assert [len(row["segments"]) for row in done] == [0, 0, 1, 1]
    assert map_at(done, 2, COCO) == label(photo(3, 2, TOP))
    assert done.features["segments"].feature["label"].names == ["car", "sky"]


def test_of_a_named_labeler_no_weights_are_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(name: Any, **options: Any) -> RedIsCar:
        loaded.append((name, options["precision"]))
        return RedIsCar()

    monkeypatch.setattr("hf_detr_panoptic.labeling.labeler.load_labeler", load)
    label = AutoLabel("person/detr", precision="bf16", threshold=0.7)
    pickled = pickle.dumps(label)
    assert b"RedIsCar" not in pickled
    again = pickle.loads(pickled)
    assert again(photo(3, 2, TOP)).ids.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert loaded == [("person/detr", "bf16")] * 2
    assert (again.threshold, pickle.dumps(label)) == (0.7, pickled)


# --- MergeMarks


AUTO = PanopticMap(
    [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [2, 2, 0, 0, 0, 0], [2, 2, 0, 0, 0, 0]],
    [Segment(1, 1, 0.9, "auto"), Segment(2, 0, 0.9, "auto")],
    COCO,
)
MASK = [[0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 2, 2], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]]
# The pipes are two parts of value 1; a quarter of the car lies under the first one, less than half of it.
MERGED = [[4, 4, 4, 4, 4, 4], [4, 1, 1, 4, 3, 3], [5, 1, 1, 0, 0, 0], [5, 5, 0, 0, 0, 2]]
NAMES = {1: "pipe", 2: "crack"}
RULES = OverlayRules(min_area=0)


def test_a_mask_lies_on_top() -> None:
    merge = MergeMarks(COCO, NAMES, rules=RULES)
    assert merge.label_space.names == ("car", "sky", "pipe", "crack")
    mask = np.array(MASK, dtype=np.uint8)
    for form in (mask, Image.fromarray(mask), png(Image.fromarray(mask))):
        merged = merge(AUTO, form)
        assert merged.ids.tolist() == MERGED
        assert [(merged.space[s.label].name, s.source) for s in merged.segments] == [
            ("pipe", "custom"),
            ("pipe", "custom"),
            ("crack", "custom"),
            ("sky", "auto"),
            ("car", "auto"),
        ]
    for options in ({"instances": "whole"}, {"stuff": ["pipe"]}):
        assert len(MergeMarks(COCO, NAMES, rules=RULES, **options)(AUTO, mask).segments) == 4


def test_coco_annotations_and_marks_say_the_same() -> None:
    """The same regions as polygons, as COCO's uncompressed RLE (down the columns), and as this package's marks."""
    merge = MergeMarks(COCO, NAMES, rules=RULES)
    polygons = [
        {"category_id": 1, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]], "bbox": [1, 1, 2, 2], "iscrowd": 0},
        {"category_id": 1, "segmentation": [[5, 3, 6, 3, 6, 4, 5, 4]], "bbox": [5, 3, 1, 1], "iscrowd": None},
        {"category_id": 2, "segmentation": {"size": [4, 6], "counts": [17, 1, 3, 1, 2]}, "bbox": [4, 1, 2, 1]},
    ]
    assert merge(AUTO, polygons).ids.tolist() == MERGED
    marks = list(merge._marks(polygons, (6, 4), "here"))
    assert all(isinstance(mark, Mark) for mark in marks)
    assert merge(AUTO, marks) == merge(AUTO, polygons)


def test_nothing_marked_is_the_labelers_map() -> None:
    merge = MergeMarks(COCO, NAMES, rules=RULES)
    for nothing in (None, [], np.zeros((4, 6), dtype=np.uint8)):
        merged = merge(AUTO, nothing)
        assert merged.ids.tolist() == AUTO.ids.tolist()
        assert {segment.source for segment in merged.segments} == {"auto"}
    unsure = PanopticMap(AUTO.ids, [Segment(1, 1, 0.6, "auto"), Segment(2, 0, 0.9, "auto")], COCO)
    assert [s.label for s in merge(unsure, None).segments] == [0]  # a threshold of 0.85, as in `prepare`


@pytest.mark.parametrize("batched", [False, True])
def test_a_dataset_is_merged(batched: bool) -> None:
    label = AutoLabel(RedIsCar())
    masks = [np.array(MASK, dtype=np.uint8), None, np.zeros((3, 2), dtype=np.uint8)]
    rows = photos(photo(6, 4, TOP), photo(6, 4), photo(2, 3, TOP))
    rows = rows.add_column(
        "mask", [None if m is None else {"bytes": png(Image.fromarray(m)), "path": None} for m in masks]
    )
    rows = rows.cast_column("mask", datasets.Image())
    rows = rows.map(label, batched=batched, features=label.features(rows.features))
    merge = MergeMarks(label.label_space, NAMES, marks="mask", rules=RULES)
    done = rows.map(merge, batched=batched, features=merge.features(rows.features))
    assert done.features["segments"].feature["label"].names == ["car", "sky", "pipe", "crack"]
    merged = [map_at(done, index, merge.label_space) for index in range(3)]
    assert merged[0] == merge(label(photo(6, 4, TOP)), masks[0])
    assert [len(scene.segments) for scene in merged] == [4, 0, 1]
    assert pickle.loads(pickle.dumps(merge))(AUTO, masks[0]).ids.tolist() == MERGED


def test_wrong_marks_are_named() -> None:
    merge = MergeMarks(COCO, NAMES)
    with pytest.raises(AnnotationError, match="the value 9 has no class"):
        merge(AUTO, np.full((4, 6), 9))
    with pytest.raises(AnnotationError, match="5×4 pixels, the photo has 6×4"):
        merge(AUTO, np.ones((4, 5), dtype=np.uint8))
    with pytest.raises(AnnotationError, match=r"annotation 7.*no category has the id 3"):
        merge(AUTO, [{"id": 7, "category_id": 3, "bbox": [0, 0, 1, 1]}])
    with pytest.raises(LabelError, match="'pip' is none of the names"):
        MergeMarks(COCO, NAMES, stuff=["pip"])
    with pytest.raises(MapError, match="no column 'panoptic'"):
        merge({"image": photo(2, 2), "marks": None})


def test_a_name_of_the_labelers_is_its_class() -> None:
    merge = MergeMarks(COCO, {0: "background", 1: "sky", 2: "pipe"})
    assert [(c.name, c.isthing) for c in merge.label_space] == [("car", True), ("sky", False), ("pipe", True)]


# --- BoxesFromMasks


def test_boxes_by_hand_and_by_torchvision() -> None:
    """torchvision's corners are the first and the last pixel: a width is their difference and one."""
    boxes = BoxesFromMasks()
    scene = PanopticMap(MERGED, [Segment(number, 0) for number in range(1, 6)], COCO)
    expected = {1: (1, 1, 2, 2), 2: (5, 3, 1, 1), 3: (4, 1, 2, 1), 4: (0, 0, 6, 2), 5: (0, 2, 2, 2)}
    assert boxes(scene) == expected
    masks = np.stack([scene.mask(number) for number in range(1, 6)])
    assert boxes(masks) == list(expected.values())
    left, top, right, bottom = masks_to_boxes(torch.from_numpy(masks)).long().T
    assert boxes(masks) == list(
        zip(*(t.tolist() for t in (left, top, right - left + 1, bottom - top + 1)), strict=True)
    )
    assert boxes(np.zeros((1, 2, 2))) == [(0, 0, 0, 0)]
    assert boxes(np.zeros((0, 2, 2))) == []
    with pytest.raises(MapError, match=r"masks are \[N, H, W\]"):
        boxes(np.zeros((2, 2)))


@pytest.mark.parametrize("batched", [False, True])
def test_rows_get_boxes(batched: bool) -> None:
    label, boxes = AutoLabel(RedIsCar()), BoxesFromMasks()
    rows = photos(photo(3, 2), photo(4, 3, (slice(1, 3), slice(2, 3))))
    rows = rows.map(label, features=label.features(rows.features))
    done = rows.map(boxes, batched=batched, features=boxes.features(rows.features))
    assert (done["boxes"][:], done["areas"][:]) == ([[], [[2, 1, 1, 2]]], [[], [2]])
    assert isinstance(rows[1]["panoptic"], Image.Image)
    (plain,) = rows.cast_column("panoptic", datasets.Image(decode=False)).select([1])
    assert isinstance(plain["panoptic"]["bytes"], bytes)
    for row in (plain, plain | {"panoptic": plain["panoptic"]["bytes"]}):
        assert boxes(row) == {"boxes": [[2, 1, 1, 2]], "areas": [2]}


# --- DetrPanopticProcessor


SMALL = Preprocess(shortest_edge=24, longest_edge=40)


def noise(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def half(width: int, height: int) -> PanopticMap:
    """A pipe on the left half, sky in the last row's right half, void between."""
    ids = np.zeros((height, width), dtype=np.int32)
    ids[:, : width // 2] = 7
    ids[-1, width // 2 :] = 300
    return PanopticMap(ids, [Segment(7, 0), Segment(300, 1)], SITE)


def test_pixels_and_classes_are_those_of_stock(tmp_path: Path) -> None:
    """Stock's boxes end a pixel early, so they are not asked for: the left half is (0.25, 0.5, 0.5, 1)."""
    images, maps = [noise(32, 24, 0), noise(24, 48, 1)], [half(32, 24), half(24, 48)]
    annotations = []
    for number, scene in enumerate(maps):
        Image.fromarray(ids_to_rgb(scene.ids)).save(tmp_path / f"{number}.png")
        segments = [
            {
                "id": s.id,
                "category_id": s.label,
                "iscrowd": 0,
                "area": scene.areas()[s.id],
                "bbox": scene.boxes()[s.id],
            }
            for s in scene.segments
        ]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    stock = DetrImageProcessor(
        size={"shortest_edge": 24, "longest_edge": 40}, format="coco_panoptic", do_convert_annotations=True
    )
    expected = stock(images=images, annotations=annotations, masks_path=tmp_path, return_tensors="pt")
    batch = DetrPanopticProcessor(SITE, SMALL)(images, maps)
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    assert torch.equal(batch["pixel_mask"], expected["pixel_mask"].bool())
    for ours, theirs in zip(batch["labels"], expected["labels"], strict=True):
        assert ours["class_labels"].tolist() == theirs["class_labels"].tolist()
        assert ours["boxes"][0].tolist() == [0.25, 0.5, 0.5, 1.0]
    assert [label["image_id"].item() for label in batch["labels"]] == [0, 1]


def test_photos_alone_and_a_void_map() -> None:
    processor = DetrPanopticProcessor(SITE, SMALL)
    batch = processor([noise(32, 24, 0), noise(24, 48, 1)])
    assert (batch.keys(), batch["pixel_values"].shape) == ({"pixel_values", "pixel_mask"}, (2, 3, 40, 32))
    nothing = PanopticMap(np.zeros((24, 32), dtype=np.int32), [], SITE)
    (label,) = processor(noise(32, 24, 0), nothing)["labels"]
    assert (label["boxes"].shape, label["class_labels"].shape) == ((0, 4), (0,))
    with pytest.raises(MapError, match="2 photos and 1 maps"):
        processor([noise(4, 4, 0)] * 2, [half(4, 4)])
    with pytest.raises(HfDetrPanopticError, match="the photo is 4×4, its map 6×4"):
        processor(noise(4, 4, 0), half(6, 4))


def test_a_dataset_goes_into_a_loader() -> None:
    label = AutoLabel(RedIsCar())
    rows = photos(photo(3, 2, TOP), photo(2, 3))
    rows = rows.map(label, features=label.features(rows.features))
    processor = pickle.loads(pickle.dumps(DetrPanopticProcessor(COCO, SMALL)))
    loader = torch.utils.data.DataLoader(rows.with_transform(processor), 2, collate_fn=processor.collate)
    (batch,) = loader
    assert batch["pixel_values"].shape == (2, 3, 36, 36)
    assert [len(label["class_labels"]) for label in batch["labels"]] == [1, 0]
    assert batch["labels"][0]["boxes"].tolist() == [[0.5, 0.25, 1.0, 0.5]]
    alone = rows.remove_columns(["panoptic", "segments"]).with_transform(processor)
    assert processor.collate([alone[0], alone[1]]).keys() == {"pixel_values", "pixel_mask"}
    with pytest.raises(LabelError, match="nobody said of which classes"):
        rows.with_transform(DetrPanopticProcessor(preprocess=SMALL))[0]
