"""`prepare` from a `datasets` dataset: what comes of it is, byte for byte, what comes of its files in folders."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from made import tree
from PIL import Image, ImageDraw

from hf_detr_panoptic import LabelSpace, PanopticMap, Segment, load_panoptic, prepare
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.errors import DatasetError
from hf_detr_panoptic.labels import Category

SPACE = LabelSpace([Category("sky", isthing=False, source="auto"), Category("truck", isthing=True, source="auto")])
VALUES = {1: "pipe", 2: "crack"}


class Halves:
    """A labeler that sees sky above and a truck below."""

    label_space = SPACE
    fingerprint = "halves"
    photos = 0

    def segment(self, images, threshold):
        self.photos += len(images)
        maps = []
        for image in images:
            ids = np.ones((image.height, image.width), dtype=np.int32)
            ids[image.height // 2 :] = 2
            maps.append(PanopticMap(ids, [Segment(1, 0, 0.9, "model"), Segment(2, 1, 0.9, "model")], SPACE))
        return maps


@pytest.fixture
def masks(site: Path) -> Path:
    """The site's marks as masks of classes: for all photos but the first."""
    payload = json.loads((site / "marks.json").read_text())
    folder = site / "masks"
    folder.mkdir()
    for image in payload["images"][1:]:
        mask = Image.new("L", (image["width"], image["height"]))
        for mark in payload["annotations"]:
            if mark["image_id"] == image["id"]:
                ImageDraw.Draw(mask).polygon(mark["segmentation"][0], fill=mark["category_id"])
        mask.save(folder / f"{Path(image['file_name']).stem}.png")
    return folder


def dataset_of(site: Path, masks: Path) -> datasets.Dataset:
    """With the files' bytes in it, as Parquet has them."""
    photos = sorted((site / "photos").iterdir())
    paths = [masks / f"{photo.stem}.png" for photo in photos]
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": photo.read_bytes(), "path": photo.name} for photo in photos],
            "mask": [{"bytes": path.read_bytes(), "path": None} if path.is_file() else None for path in paths],
        },
        features=datasets.Features({"image": datasets.Image(), "mask": datasets.Image()}),
    )


def results(out: Path) -> dict[str, bytes]:
    """Photos, maps and JSON."""
    return {name: data for name, data in tree(out).items() if name.startswith(("images/", "annotations/"))}


def test_a_dataset_and_its_files_come_to_the_same(site: Path, masks: Path, tmp_path: Path) -> None:
    settings = {"labeler": Halves(), "values": VALUES, "unannotated": "auto"}
    prepare(site / "photos", tmp_path / "files", masks, **settings)
    labeler = Halves()
    prepared = prepare(dataset_of(site, masks), tmp_path / "rows", **{**settings, "labeler": labeler})
    assert prepared is not None
    assert prepared.inputs.custom == ("pipe", "crack")
    assert results(tmp_path / "rows") == results(tmp_path / "files")
    assert labeler.photos == 6
    first = tree(tmp_path / "rows")
    prepare(dataset_of(site, masks), tmp_path / "rows", **{**settings, "labeler": labeler})
    assert tree(tmp_path / "rows") == first
    assert labeler.photos == 6  # nothing was labelled twice


def test_a_photo_without_a_mask_is_not_marked(site: Path, masks: Path, tmp_path: Path) -> None:
    prepared = prepare(dataset_of(site, masks), tmp_path / "out", labeler=Halves(), values=VALUES)
    assert prepared is not None
    assert [row["photo"] for row in prepared.skipped] == ["site_0000.jpg"]
    assert len(prepared.photos) == 5


def test_what_is_new_leaves_the_rest_where_it_was(site: Path, masks: Path, tmp_path: Path) -> None:
    whole, out = dataset_of(site, masks), tmp_path / "out"
    settings = {"labeler": Halves(), "values": VALUES}
    prepare(whole.select([1, 2, 3]), out, **settings)
    before = {record.file_name: part for part, rows in read_dataset(out).items() for record in rows}
    prepare(whole, out, **settings)
    after = {record.file_name: part for part, rows in read_dataset(out).items() for record in rows}
    assert len(after) == 5
    assert before.items() <= after.items()


def test_a_saved_dataset_by_command(
    site: Path, masks: Path, tmp_path: Path, tiny_labeler: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = dataset_of(site, masks)
    rows = rows.add_column("depth", [None] * len(rows)).cast_column("depth", datasets.Image())
    rows.save_to_disk(tmp_path / "saved")
    out = tmp_path / "out"
    words = ["prepare", "--images", str(tmp_path / "saved"), "--out", str(out), "--labeler", str(tiny_labeler)]
    words += ["--values", "1=pipe", "--values", "2=crack"]
    before = tree(tmp_path / "saved")
    assert main(words) == 2
    assert "may be any of mask, depth. Say which column: --mask-column mask" in capsys.readouterr().err
    words += ["--mask-column", "mask"]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "5 photos would be labelled" in said
    assert "pipe: thing, 5 marks" in said
    assert not out.exists()
    assert main(words) == 0
    assert len([record for rows in read_dataset(out).values() for record in rows]) == 5
    assert json.loads((out / "prepare.json").read_text())["settings"]["mask_column"] == "mask"
    assert tree(tmp_path / "saved") == before
    assert main([*words[:4], str(tmp_path / "saved" / "out"), *words[5:]]) == 2
    assert "in the folder of the photos" in capsys.readouterr().err


def test_step_by_step(site: Path, masks: Path, tmp_path: Path, tiny_labeler: Path) -> None:
    dataset_of(site, masks).save_to_disk(tmp_path / "saved")
    data = ["--images", str(tmp_path / "saved"), "--values", "1=pipe", "--values", "2=crack"]
    labeler = ["--labeler", str(tiny_labeler)]
    assert main(["prepare", *data, *labeler, "--out", str(tmp_path / "once")]) == 0
    out = ["--out", str(tmp_path / "steps")]
    assert main(["autolabel", *data, *labeler, *out]) == 0
    assert main(["overlay", *data, *out]) == 0
    assert main(["split", str(tmp_path / "steps")]) == 0
    once, steps = (results(tmp_path / name) for name in ("once", "steps"))
    assert {name.rpartition("/")[2] for name in once} == {name.rpartition("/")[2] for name in steps}


def test_marks_from_elsewhere_go_before_the_masks(site: Path, masks: Path, tmp_path: Path) -> None:
    prepared = prepare(dataset_of(site, masks), tmp_path / "out", site / "marks.json", labeler=Halves())
    assert prepared is not None
    assert prepared.inputs.description.startswith("COCO instances: 6 photos")


def test_a_dataset_of_our_own(site: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it says was marked by somebody, then: every pixel of the maps is as it was."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    prepare(site / "photos", tmp_path / "one", masks, labeler=Halves(), values=VALUES)
    prepare(load_panoptic(tmp_path / "one"), tmp_path / "two", labeler=Halves(), stuff=("sky",))
    one, two = (
        {
            Path(record.file_name).name: record.map()
            for rows in read_dataset(tmp_path / name).values()
            for record in rows
        }
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    for name, scene in one.items():
        again = two[name]
        assert {segment.source for segment in again.segments} == {"custom"}
        for segment in scene.segments:
            (same,) = {int(number) for number in np.unique(again.ids[scene.mask(segment.id)])}
            assert again.space[again.segment(same).label].name == scene.space[segment.label].name


def test_what_cannot_be_had_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No test reaches the Hub."""
    assert main(["prepare", "--images", "person/site", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("hf-detr-panoptic prepare: person/site: is no folder here, and as a dataset it cannot be")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DatasetError, match="int is no dataset that can be unpacked"):
        prepare(7, tmp_path / "out")  # type: ignore[arg-type]


def test_masks_without_names_ask_for_them(site: Path, masks: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none of the 6 photos can be used.*--values 1=NAME"):
        prepare(dataset_of(site, masks), tmp_path / "out", labeler=Halves())


def test_upright_photos_have_upright_masks(tmp_path: Path) -> None:
    """A photo turned by EXIF, its mask drawn on what is seen."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (30, 20)).save(stream, "JPEG", exif=exif)
    mask = io.BytesIO()
    pixels = np.zeros((30, 20), dtype=np.uint8)
    pixels[:10, :10] = 1
    Image.fromarray(pixels).save(mask, "PNG")
    one = {"image": [{"bytes": stream.getvalue(), "path": None}], "mask": [{"bytes": mask.getvalue(), "path": None}]}
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    prepare(datasets.Dataset.from_dict(one, features=features), tmp_path, labeler=Halves(), values=VALUES)
    ((record,),) = (rows.records for rows in read_dataset(tmp_path).values() if len(rows))
    scene = record.map()
    assert scene.ids.shape == (30, 20)
    (pipe,) = (segment for segment in scene.segments if segment.source == "custom")
    assert scene.boxes()[pipe.id] == (0, 0, 10, 10)
