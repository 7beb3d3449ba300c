"""Who looked at what: a photo's incomplete classes from disk to the labels of a batch, by every road."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, load_panoptic
from hf_detr_panoptic.dataset.batches import PanopticDataset, collate
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset, read_split
from hf_detr_panoptic.dataset.rows import rows_of, write_parquet
from hf_detr_panoptic.dataset.writer import DatasetWriter, reassign
from hf_detr_panoptic.errors import DatasetError
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.training.run_folder import dataset_record
from hf_detr_panoptic.training.sampling import Splits
from hf_detr_panoptic.training.train import only_labels

TOLD = {"p0.jpg": (), "p1.jpg": ("pipe", "crack"), "p2.jpg": ("crack",), "p3.jpg": ()}
SPACE = LabelSpace([Category("pipe", True), Category("wall", False), Category("crack", True)])


@pytest.fixture
def folder(tmp_path: Path, small_map: PanopticMap, photo: Callable[..., Path]) -> Path:
    """Photos 1 and 2 are incomplete; the names were handed over in another order than that of the classes."""
    map = PanopticMap(small_map.ids, small_map.segments, SPACE)
    with DatasetWriter(tmp_path / "told", SPACE) as writer:
        for place, (name, incomplete) in enumerate(TOLD.items()):
            path = photo(tmp_path / "photos" / name, place)
            writer.add("train" if place < 3 else "val", name, path, map, incomplete=reversed(incomplete))
    return tmp_path / "told"


def images_of(folder: Path, split: str = "train") -> list[dict[str, object]]:
    content = json.loads((folder / f"annotations/panoptic_{split}.json").read_bytes())
    images: list[dict[str, object]] = content["images"]
    return images


def test_the_json_says_it_where_it_is_so(folder: Path) -> None:
    assert [image.get("incomplete", "absent") for image in images_of(folder)] == [
        "absent",
        ["pipe", "crack"],
        ["crack"],
    ]
    assert [record.incomplete for record in read_split(folder)] == [(), ("pipe", "crack"), ("crack",)]


def test_parquet_and_datasets_keep_it(folder: Path, tmp_path: Path) -> None:
    loaded = load_panoptic(folder)
    assert loaded["train"].features["incomplete"].feature.names == list(SPACE.names)
    assert loaded["train"]["incomplete"][:] == [[], [0, 2], [2]]
    write_parquet(loaded, tmp_path / "parquet")
    again = load_panoptic(tmp_path / "parquet")
    rows = [row for split in again for row in rows_of(again[split], again.label_space)]
    assert {row.file_name: row.incomplete for row in rows} == TOLD


def test_a_dataset_of_complete_photos_has_no_column(dataset: Path, tmp_path: Path) -> None:
    loaded = load_panoptic(dataset)
    assert "incomplete" not in loaded["train"].column_names
    write_parquet(loaded, tmp_path / "parquet")
    again = load_panoptic(tmp_path / "parquet")
    assert [row.incomplete for row in rows_of(again["train"], again.label_space)] == [(), (), ()]


def test_labels_have_the_places_of_the_classes(folder: Path) -> None:
    items = PanopticDataset(read_split(folder), Preprocess(shortest_edge=40, longest_edge=80))
    labels = collate([items[index] for index in range(3)])["labels"]
    assert [label["incomplete"].tolist() for label in labels] == [[], [0, 2], [2]]
    assert all(label["incomplete"].dtype == torch.int64 for label in labels)


def test_fewer_labels_keep_what_is_left(folder: Path) -> None:
    read = read_dataset(folder)
    splits = only_labels(Splits(read["train"], read["val"], read["train"].space), ["crack", "wall"])
    assert [row.incomplete for row in splits.train] == [(), ("crack",), ("crack",)]
    labels = PanopticDataset(splits.train)[1]["labels"]
    assert labels["incomplete"].tolist() == [0]


def test_moved_photos_keep_it(folder: Path) -> None:
    reassign(folder, {"p0.jpg": "val", "p1.jpg": "train", "p2.jpg": "train", "p3.jpg": "train"})
    read = read_dataset(folder)
    assert {record.file_name: record.incomplete for split in read.values() for record in split} == TOLD


def test_a_run_notices_that_a_photo_was_looked_at_since(folder: Path) -> None:
    before = dataset_record(read_dataset(folder))
    path = folder / "annotations/panoptic_train.json"
    path.write_text(path.read_text().replace(', "incomplete": ["crack"]', ""))
    after = dataset_record(read_dataset(folder))
    assert before["val"] == after["val"]
    assert before["train"] != after["train"]


@pytest.mark.parametrize("wrong", ['"crack"', "true", "[3]", '["crac"]'])
def test_another_form_is_an_error(folder: Path, wrong: str) -> None:
    path = folder / "annotations/panoptic_train.json"
    path.write_text(path.read_text().replace('["crack"]', wrong))
    with pytest.raises(DatasetError, match="'incomplete' of an image is no list of the categories' names"):
        read_split(folder)


def test_the_writer_refuses_strangers(folder: Path, tmp_path: Path, small_map: PanopticMap) -> None:
    map = PanopticMap(small_map.ids, small_map.segments, SPACE)
    writer = DatasetWriter(tmp_path / "new", SPACE)
    with pytest.raises(DatasetError, match="there is no category 'pipes'"):
        writer.add("train", "p0.jpg", folder / "images/p0.jpg", map, incomplete=["pipes"])
