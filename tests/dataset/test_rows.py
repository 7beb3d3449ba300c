"""`load_panoptic` and Parquet: every pixel, segment and byte comes back."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hf_detr_panoptic import LabelSpace, PanopticMap, load_panoptic
from hf_detr_panoptic.dataset.batches import EpochSampler, PanopticDataset, collate
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset, read_split
from hf_detr_panoptic.dataset.rows import PanopticDatasets, rows_of, to_panoptic_map, write_parquet
from hf_detr_panoptic.errors import DatasetError, HfDetrPanopticError
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Augmentation


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def assert_same_as_folder(loaded: PanopticDatasets, folder: Path) -> None:
    """Compared with the reader of folders, which shares no line with the way through `datasets`."""
    splits = read_dataset(folder)
    assert list(loaded) == [{"val": "validation"}.get(name, name) for name in splits]
    for rows, records in zip(loaded.values(), splits.values(), strict=True):
        assert len(rows) == len(records)
        for row, stored, record in zip(rows, rows_of(rows, loaded.label_space), records, strict=True):
            assert (row["image_id"], row["file_name"]) == (record.image_id, record.file_name)
            assert to_panoptic_map(row, loaded.label_space) == stored.map() == record.map()
            assert stored.png == record.png.read_bytes()
            assert np.array_equal(np.asarray(row["panoptic"]), np.asarray(Image.open(record.png)))
            photo = stored.photo if isinstance(stored.photo, bytes) else stored.photo.read_bytes()
            assert photo == record.photo.read_bytes()
            assert np.array_equal(np.asarray(row["image"]), np.asarray(Image.open(record.photo)))


def test_a_folder_is_loaded(dataset: Path, space: LabelSpace) -> None:
    loaded = load_panoptic(dataset)
    assert isinstance(loaded, datasets.DatasetDict)
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 3, "validation": 2}
    assert loaded.label_space == space
    assert [c.source for c in loaded.label_space] == ["custom", "custom", "auto"]
    assert_same_as_folder(loaded, dataset)


def test_the_columns_are_those_of_the_design(dataset: Path, space: LabelSpace) -> None:
    features = load_panoptic(dataset)["train"].features
    assert list(features) == ["image", "image_id", "file_name", "panoptic", "segments"]
    assert isinstance(features["image"], datasets.Image)
    assert features["panoptic"] == datasets.Image()
    row = load_panoptic(dataset)["train"][0]
    assert row["segments"] == [
        {"id": 1, "label": 0, "score": 1.0, "source": "custom", "iscrowd": 0},
        {"id": 70_000, "label": 0, "score": 0.9, "source": "custom", "iscrowd": 0},
        {"id": 300, "label": 2, "score": 0.75, "source": "auto", "iscrowd": 0},
    ]


def test_parquet_there_and_back_without_loss(dataset: Path, tmp_path: Path) -> None:
    loaded = load_panoptic(dataset)
    written = write_parquet(loaded, tmp_path / "hub")
    assert [path.name for path in written] == [
        "train-00000-of-00001.parquet",
        "validation-00000-of-00001.parquet",
    ]
    (dataset / "images").rename(tmp_path / "gone")  # nothing of the photos' paths may be left in the Parquet
    back = load_panoptic(tmp_path / "hub")
    (tmp_path / "gone").rename(dataset / "images")
    assert back["train"].features == loaded["train"].features
    assert back.label_space == loaded.label_space
    assert [c.color for c in back.label_space] == [c.color for c in loaded.label_space]
    assert_same_as_folder(back, dataset)
    assert isinstance(rows_of(back["train"], back.label_space)[0].photo, bytes)


def test_parquet_of_before_is_read_and_written_anew(dataset: Path, tmp_path: Path) -> None:
    """Its maps are a column of bytes."""
    loaded = load_panoptic(dataset)
    names = loaded.label_space.names
    before = datasets.Features({**loaded["train"].features, "panoptic": datasets.Value("binary")})
    for path in write_parquet(loaded, tmp_path / "hub"):
        table = pq.read_table(path)
        pngs = table["panoptic"].combine_chunks().field("bytes")
        table = table.set_column(table.column_names.index("panoptic"), "panoptic", pngs)
        pq.write_table(table.cast(before.arrow_schema), path)
    old = load_panoptic(tmp_path / "hub")
    assert old["train"].features["panoptic"] == datasets.Value("binary")
    assert old["train"].features["segments"] == loaded["train"].features["segments"]
    for split, records in read_dataset(dataset).items():
        rows = old[{"val": "validation"}.get(split, split)]
        for row, stored, record in zip(rows, rows_of(rows, old.label_space), records, strict=True):
            assert row["panoptic"] == stored.png == record.png.read_bytes()
            assert to_panoptic_map(row, old.label_space) == stored.map() == record.map()
    write_parquet(old, tmp_path / "again")
    again = load_panoptic(tmp_path / "again")
    assert again["train"].features == loaded["train"].features
    assert again.label_space.names == names
    assert_same_as_folder(again, dataset)


def test_plain_load_dataset_reads_the_parquet(dataset: Path, tmp_path: Path) -> None:
    loaded = load_panoptic(dataset)
    write_parquet(loaded, tmp_path / "hub")
    plain = datasets.load_dataset(str(tmp_path / "hub"))
    assert to_panoptic_map(plain["train"][2], loaded.label_space) == read_split(dataset)[2].map()
    streamed = list(datasets.load_dataset(str(tmp_path / "hub"), split="validation", streaming=True))
    assert [row["image_id"] for row in streamed] == [4, 5]


def test_parquet_in_several_files_keeps_the_order(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_detr_panoptic.dataset.rows._ROWS", 1)
    written = write_parquet(load_panoptic(dataset), tmp_path / "hub", max_shard_bytes=1)
    assert [path.name for path in written][:3] == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    assert_same_as_folder(load_panoptic(tmp_path / "hub"), dataset)
    write_parquet(load_panoptic(dataset), tmp_path / "hub")  # again, in one file: the three must go
    assert len(list((tmp_path / "hub" / "data").iterdir())) == 2
    assert_same_as_folder(load_panoptic(tmp_path / "hub"), dataset)


def test_parquet_of_others_is_not_overwritten(dataset: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "hub" / "data" / "train.parquet"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    with pytest.raises(DatasetError, match="another program"):
        write_parquet(load_panoptic(dataset), tmp_path / "hub")
    assert theirs.read_bytes() == b"theirs"


@pytest.mark.parametrize(("column", "what"), [("image", "a photo"), ("panoptic", "a map")])
def test_parquet_names_no_files_of_this_machine(dataset: Path, tmp_path: Path, column: str, what: str) -> None:
    write_parquet(load_panoptic(dataset), tmp_path / "hub")
    path = next((tmp_path / "hub").rglob("train-*.parquet"))
    table = pq.read_table(path)
    cells = [{"bytes": None, "path": str(dataset / "private.jpg")}] * table.num_rows
    number = table.column_names.index(column)
    changed = pa.array(cells, table.schema.field(column).type)
    pq.write_table(table.set_column(number, table.schema.field(column), changed), path)
    with pytest.raises(DatasetError, match=f"{what} is not in the dataset, only a path"):
        load_panoptic(tmp_path / "hub")


def test_a_plain_dataset_dict_needs_its_space(dataset: Path, tmp_path: Path, space: LabelSpace) -> None:
    plain = datasets.DatasetDict(load_panoptic(dataset))
    with pytest.raises(DatasetError, match="things"):
        write_parquet(plain, tmp_path / "hub")
    write_parquet(plain, tmp_path / "hub", space)
    assert load_panoptic(tmp_path / "hub").label_space == space


def test_an_edited_dataset_is_read_anew(dataset: Path, small_map: PanopticMap) -> None:
    assert load_panoptic(dataset)["train"][0]["segments"][0]["score"] == 1.0
    path = dataset / "annotations" / "panoptic_train.json"
    path.write_text(path.read_text().replace('"score": 1.0', '"score": 0.25'))
    assert load_panoptic(dataset)["train"][0]["segments"][0]["score"] == 0.25
    png = next((dataset / "annotations" / "panoptic_train").glob("p0.png"))
    ids = small_map.ids.copy()
    ids[0, 0] = 1
    Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)).save(png)
    loaded = load_panoptic(dataset)
    assert to_panoptic_map(loaded["train"][0], loaded.label_space).ids[0, 0] == 1


def test_training_sees_the_same_through_folder_and_parquet(dataset: Path, tmp_path: Path) -> None:
    write_parquet(load_panoptic(dataset), tmp_path / "hub")
    stored = load_panoptic(tmp_path / "hub")
    settings = {"preprocess": Preprocess(32, 60), "augmentation": Augmentation().for_size(32), "seed": 3}
    sides = [
        PanopticDataset(rows, **settings)  # type: ignore[arg-type]
        for rows in (read_split(dataset), rows_of(stored["train"], stored.label_space))
    ]
    sampler = EpochSampler(3, seed=1)
    sampler.set_epoch(2)
    first = list(DataLoader(sides[0], batch_size=3, sampler=sampler, collate_fn=collate))
    workers = {"num_workers": 1, "multiprocessing_context": "spawn"}
    second = list(DataLoader(sides[1], batch_size=3, sampler=sampler, collate_fn=collate, **workers))  # type: ignore[arg-type]
    assert torch.equal(first[0]["pixel_values"], second[0]["pixel_values"])
    for one, other in zip(first[0]["labels"], second[0]["labels"], strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_slice_of_rows_is_rows(dataset: Path) -> None:
    loaded = load_panoptic(dataset)
    rows = rows_of(loaded["train"], loaded.label_space)
    assert [row.image_id for row in rows[1:]] == [2, 3]
    assert rows[-1].image_id == 3


def test_text_ids_and_cocos_own_layout(dataset: Path) -> None:
    """val2017, photos in val2017/, and image ids that are texts, as Cityscapes has them."""
    annotations = dataset / "annotations"
    content = json.loads((annotations / "panoptic_val.json").read_text())
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        image["id"] = annotation["image_id"] = f"shot-{image['id']}"
    for path in annotations.glob("*.json"):
        path.unlink()
    (annotations / "panoptic_val2017.json").write_text(json.dumps(content))
    (annotations / "panoptic_val").rename(annotations / "panoptic_val2017")
    (dataset / "images").rename(dataset / "val2017")
    loaded = load_panoptic(dataset)
    assert loaded["validation"]["image_id"][:] == ["shot-4", "shot-5"]
    assert_same_as_folder(loaded, dataset)


def test_photos_elsewhere(dataset: Path, tmp_path: Path) -> None:
    (dataset / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="photo is missing"):
        load_panoptic(dataset)
    loaded = load_panoptic(dataset, photos=tmp_path / "elsewhere")
    assert loaded["train"][0]["image"].size == (60, 40)


def test_without_a_label_space_the_person_says_what_is_stuff(dataset: Path, tmp_path: Path) -> None:
    loaded = load_panoptic(dataset)
    write_parquet(loaded, tmp_path / "hub")
    (tmp_path / "hub" / "label_space.json").unlink()
    with pytest.raises(HfDetrPanopticError, match="does not say whether pipe, crack, sky are"):
        load_panoptic(tmp_path / "hub")
    again = load_panoptic(tmp_path / "hub", stuff=["sky"])
    assert [category.isthing for category in again.label_space] == [True, True, False]
    assert_same_as_folder(again, dataset)


def test_a_label_space_of_another_dataset_is_an_error(dataset: Path, tmp_path: Path) -> None:
    write_parquet(load_panoptic(dataset), tmp_path / "hub")
    (tmp_path / "hub" / "label_space.json").write_text(json.dumps({"categories": LabelSpace.coco().to_coco()}))
    with pytest.raises(DatasetError, match="not those of label_space.json"):
        load_panoptic(tmp_path / "hub")


@pytest.mark.parametrize("source", ["no/such/folder", "./nothing", "nowhere"])
def test_what_is_neither_folder_nor_name_is_an_error(source: str) -> None:
    with pytest.raises(DatasetError, match="no folder, nor a name on the Hub"):
        load_panoptic(source)


def test_a_name_out_of_reach_says_the_ways_out() -> None:
    with pytest.raises(DatasetError, match="hf auth login"):  # the tests run offline
        load_panoptic("nobody/nothing")


def test_real_coco(shared_data: Path) -> None:
    folder = shared_data / "panopticapi_sample"
    loaded = load_panoptic(folder)
    assert sum(len(row["segments"]) for rows in loaded.values() for row in rows) == 50
    assert sum(s["iscrowd"] for rows in loaded.values() for row in rows for s in row["segments"]) == 3
    assert loaded.label_space == LabelSpace.coco()
    assert_same_as_folder(loaded, folder)
