"""A `datasets` dataset as files: names, masks in every form, what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import DatasetError
from hf_detr_panoptic.labeling.from_datasets import load, names_a_dataset, places_of, unpack
from hf_detr_panoptic.panoptic_map import ids_to_rgb

MASK = np.array([[0, 1, 1], [0, 0, 2]], dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


PHOTO = png(np.zeros((2, 3, 3), dtype=np.uint8))


def rows(paths: list[str | None], masks: list[bytes | None], **columns: tuple[Any, list[Any]]) -> datasets.Dataset:
    features = {"image": datasets.Image(), "mask": datasets.Image()} | {
        name: kind for name, (kind, _) in columns.items()
    }
    content: dict[str, Any] = {name: values for name, (_, values) in columns.items()}
    content["image"] = [{"bytes": PHOTO, "path": path} for path in paths]
    content["mask"] = [mask and {"bytes": mask, "path": None} for mask in masks]
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def marked(unpacked: Any, **options: Any) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Photo → its marks as (class, box), as the readers have them."""
    read = read_annotations(unpacked.annotations, unpacked.images, values=unpacked.values, **options)
    assert read.skipped == read.unmatched == ()
    return {photo.photo: [(mark.name, mark.box) for mark in photo.marks] for photo in read.photos}


MARKS = [("pipe", (1, 0, 2, 1)), ("crack", (2, 1, 1, 1))]


def test_photos_and_masks_of_classes(tmp_path: Path) -> None:
    dataset = rows(["/far/away/a.png", "b.png"], [png(MASK), None])
    unpacked = unpack(dataset, tmp_path, values={1: "pipe", 2: "crack"})
    assert files(tmp_path) == [".unpacked", "masks/a.png", "photos/a.png", "photos/b.png"]
    assert (tmp_path / "photos/a.png").read_bytes() == PHOTO
    assert (tmp_path / "masks/a.png").read_bytes() == png(MASK)
    assert marked(unpacked) == {"a.png": MARKS}


def test_the_splits_keep_their_photos_apart(tmp_path: Path) -> None:
    splits = datasets.DatasetDict(
        {"train": rows(["0.png"], [png(MASK)]), "test": rows(["0.png"], [png(np.zeros((2, 3), dtype=np.uint8))])}
    )
    unpacked = unpack(splits, tmp_path, values={1: "pipe", 2: "crack"})
    assert marked(unpacked) == {"train/0.png": MARKS, "test/0.png": []}


def test_every_photo_has_a_name_of_its_own(tmp_path: Path) -> None:
    names = [None, "x/a.jpg", "y/A.JPG", "C:\\data\\b?.bin", ".hidden.png", "ü.png"]
    unpack(rows(names, [None] * 6), tmp_path)
    expected = ["000000.png", "000002.JPG", "a.jpg", "b_.png", "hidden.png", "ü.png"]
    assert files(tmp_path / "photos") == sorted(expected)


def test_names_of_a_class_label_that_counts_from_a_background(tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["background", "pipe", "crack"])
    other = datasets.ClassLabel(names=["bathroom", "attic"])
    dataset = rows(["a.png"], [png(MASK)], classes=([label], [[1, 2]]), scene=(other, [0]))
    assert marked(unpack(dataset, tmp_path / "named")) == {"a.png": MARKS}
    # What a photo as a whole shows says nothing of its mask.
    assert unpack(rows(["a.png"], [png(MASK)], scene=(other, [0])), tmp_path / "unnamed").values is None


@pytest.mark.parametrize("column", ["segments", "segments_info"])
@pytest.mark.parametrize("binary", [False, True])
def test_panoptic_maps(column: str, binary: bool, tmp_path: Path) -> None:
    ids = np.where(MASK == 1, 70000, MASK.astype(np.int32))
    label = datasets.ClassLabel(names=["crack", "pipe"])
    key = "label" if column == "segments" else "category_id"
    kind = [{"id": datasets.Value("int32"), key: label, "iscrowd": datasets.Value("int8")}]
    segments = [{"id": 70000, key: 1, "iscrowd": 0}, {"id": 2, key: 0, "iscrowd": 1}]
    dataset = rows(["a.png", "b.png"], [png(ids_to_rgb(ids)), None], **{column: (kind, [segments, []])})
    if binary:
        dataset = dataset.cast_column("mask", datasets.Image(decode=False))
        pngs = [row["mask"] and row["mask"]["bytes"] for row in dataset]
        dataset = dataset.remove_columns("mask").add_column("mask", pngs)
    unpacked = unpack(dataset, tmp_path)
    assert "annotations/panoptic/a.png" in files(tmp_path)
    assert marked(unpacked) == {"a.png": MARKS}


def test_again_nothing_is_touched_and_what_is_gone_goes(tmp_path: Path) -> None:
    two = rows(["a.png", "b.png"], [png(MASK), png(MASK)])
    unpack(two, tmp_path, values={1: "pipe"})
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)}
    unpack(two, tmp_path, values={1: "pipe"})
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)} == before
    unpack(two.select([1]), tmp_path, values={1: "pipe"})
    assert files(tmp_path) == [".unpacked", "masks/b.png", "photos/b.png"]
    assert unpack(two, tmp_path, masks=False).annotations is None
    assert files(tmp_path) == [".unpacked", "photos/a.png", "photos/b.png"]


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds something else"):
        unpack(rows(["a.png"], [None]), tmp_path)
    assert files(tmp_path) == ["thesis.txt"]


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    dataset = rows(["a.png"], [png(MASK)])
    two = dataset.add_column("depth", [{"bytes": png(MASK), "path": None}]).cast_column("depth", datasets.Image())
    unnamed = [{"id": datasets.Value("int32"), "label": datasets.Value("int32")}]
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (dataset, {"mask_column": "maks"}, "Did you mean 'mask'"),
        (two, {}, "may be any of mask, depth"),
        (datasets.Dataset.from_dict({"text": ["a"]}), {}, "none of the columns text holds"),
        (rows(["a.png"], [PHOTO], segments=(unnamed, [[]])), {}, "its labels have no names"),
        (dataset.to_iterable_dataset(), {}, "IterableDataset is no dataset that can be unpacked"),
        (datasets.DatasetDict(a=dataset, b=dataset.remove_columns("mask")), {}, "split 'b' has no column 'mask'"),
    ]
    for given, options, answer in cases:
        with pytest.raises(DatasetError, match=answer):
            unpack(given, tmp_path / "out", **options)
    unpack(two, tmp_path / "out", mask_column="mask")


def test_a_loaded_dataset_names_no_files_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("private.png", "site/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PHOTO)
    (tmp_path / "site" / "link.png").symlink_to(tmp_path / "private.png")
    kinds = datasets.Features({"image": datasets.Image()})

    def of(name: str) -> datasets.Dataset:
        cell = {"bytes": None, "path": str(tmp_path / name)}
        return datasets.Dataset.from_dict({"image": [cell]}, features=kinds)

    within = places_of(tmp_path / "site")
    for name in ("private.png", "site/../private.png", "site/link.png"):
        with pytest.raises(DatasetError, match="it names a file outside of the dataset"):
            unpack(of(name), tmp_path / "out", within=within)
    assert not (tmp_path / "out" / "photos").exists()
    for number, options in enumerate(({"name": "site/a.png", "within": within}, {"name": "private.png"})):
        unpack(of(str(options.pop("name"))), tmp_path / f"out{number}", **options)  # type: ignore[arg-type]


# --- what is taken for a dataset


def test_folders_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    dataset = rows(["a.png"], [png(MASK)])
    dataset.save_to_disk("saved")
    datasets.DatasetDict(train=dataset).save_to_disk("splits")
    (tmp_path / "parquet" / "data").mkdir(parents=True)
    dataset.to_parquet("parquet/data/train-00000-of-00001.parquet")
    for name, split in (("saved", "all"), ("splits", "train"), ("parquet", "train")):
        assert names_a_dataset(Path(name))
        assert load(Path(name))[split].num_rows == 1
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(PHOTO)
    dataset.to_parquet("photos/metadata.parquet")
    for name in ("photos", "nowhere", "../nowhere/else", "a/b/c", str(tmp_path / "x")):
        assert not names_a_dataset(Path(name))
    assert names_a_dataset(Path("person/site"))
    with pytest.raises(DatasetError, match=r"^person/site: is no folder here, and as a dataset it cannot be loaded"):
        load(Path("person/site"))
    (tmp_path / "saved" / "state.json").write_text(json.dumps({}))
    with pytest.raises(DatasetError, match=r"saved: cannot be loaded"):
        load(Path("saved"))


def test_an_image_folder_whose_metadata_name_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    for name, content in (("photos/a.png", PHOTO), ("masks/a.png", png(MASK)), ("photos/b.png", PHOTO)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "metadata.csv").write_text("file_name,mask_file_name\nphotos/a.png,masks/a.png\n")
    assert names_a_dataset(folder)
    unpacked = unpack(load(folder), tmp_path / "out", values={1: "pipe", 2: "crack"}, within=places_of(folder))
    assert marked(unpacked) == {"a.png": MARKS}
    (folder / "metadata.csv").write_text("file_name,text\nphotos/a.png,nice\n")
    assert not names_a_dataset(folder)
