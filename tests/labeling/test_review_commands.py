from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from made import tree

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.check import check_dataset
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.labeling.review import _was_shrunk


@pytest.fixture
def dataset(site: Path, tmp_path: Path, tiny_labeler: Path) -> Path:
    places = ["--images", str(site / "photos"), "--annotations", str(site / "marks.json")]
    assert main(["prepare", *places, "--labeler", str(tiny_labeler), "--out", str(tmp_path / "data")]) == 0
    return tmp_path / "data"


def maps(folder: Path):
    return {
        record.file_name: (name, record.image_id, record.map().compacted())
        for name, split in read_dataset(folder).items()
        for record in split
    }


@pytest.mark.parametrize("format", ["coco", "coco-panoptic"])
def test_the_round_trip_without_a_change(dataset: Path, tmp_path: Path, format: str, capsys) -> None:
    before = tree(dataset)
    assert main(["export-review", str(dataset), str(tmp_path / "r.zip"), "--format", format]) == 0
    assert "segments on 6 photos" in capsys.readouterr().out
    assert json.loads((tmp_path / "r_labels.json").read_text())[0]["name"] == "person"
    assert main(["import-review", str(dataset), str(tmp_path / "r.zip"), "--out", str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    assert "6 photos reviewed" in said
    assert "0 segments changed, 0 segments deleted" in said
    assert maps(tmp_path / "new") == maps(dataset)
    assert check_dataset(tmp_path / "new").ok
    assert tree(dataset) == before


def test_some_photos_corrected(dataset: Path, tmp_path: Path, capsys) -> None:
    zipped = tmp_path / "r.zip"
    words = ["--photos", "site_0001.jpg,site_0002.jpg", "--format", "coco"]
    assert main(["export-review", str(dataset), str(zipped), *words]) == 0
    with zipfile.ZipFile(zipped) as archive:
        told = json.loads(archive.read("annotations/instances_default.json"))
    pipe = next(entry["id"] for entry in told["categories"] if entry["name"] == "pipe")
    first = next(e for e in told["annotations"] if e["image_id"] == 1 and e["category_id"] == pipe)
    first["category_id"] = 999
    told["categories"].append({"id": 999, "name": "hose"})
    told["annotations"] = [e for e in told["annotations"] if e["image_id"] == 1]
    (tmp_path / "corrected.json").write_text(json.dumps(told))
    words = [str(dataset), str(tmp_path / "corrected.json"), "--out", str(tmp_path / "new")]
    assert main(["import-review", *words]) == 2
    assert "no class 'hose'" in capsys.readouterr().err
    assert main(["import-review", *words, "--add", "hose"]) == 0
    said = capsys.readouterr().out
    assert "1 photo reviewed" in said
    assert "1 photo came back without any mark and changed nothing, site_0002.jpg first" in said
    old, new = maps(dataset), maps(tmp_path / "new")
    changed = [
        name for name in old if [s.label for s in old[name][2].segments] != [s.label for s in new[name][2].segments]
    ]
    assert changed == ["site_0001.jpg"]
    map = new["site_0001.jpg"][2]
    hose = next(s for s in map.segments if map.space[s.label].name == "hose")
    assert (hose.source, map.areas()[hose.id]) == ("custom", first["area"])
    assert {name: entry[:2] for name, entry in new.items()} == {name: entry[:2] for name, entry in old.items()}


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["export-review", "DATA", "OUT", "--format", "coko"], "Did you mean 'coco'?"),
        (["export-review", "DATA", "OUT", "--split", "trian"], "Did you mean 'train'?"),
        (["export-review", "DATA", "OUT", "--photos", "site_9.jpg"], "there is no photo 'site_9.jpg'"),
        (["export-review", "DATA", "DATA/prepare.json/x.zip"], "the system refuses (File exists)"),
        (["import-review", "DATA", "OUT", "--out", "DATA"], "would replace the old one"),
        (["import-review", "DATA", "OUT", "--out", "NEW"], "there is no such file or folder"),
    ],
)
def test_wrong_words(words: list[str], answer: str, dataset: Path, tmp_path: Path, capsys) -> None:
    places = {"DATA": str(dataset), "OUT": str(tmp_path / "r.zip"), "NEW": str(tmp_path / "new")}
    typed = [places.get(word, word.replace("DATA", str(dataset))) for word in words]
    assert main(typed) == 2
    assert answer in capsys.readouterr().err


def test_a_record_of_brackets_is_no_record(tmp_path: Path) -> None:
    """prepare.json of a stranger: Python's reader of JSON ends in a RecursionError."""
    assert not _was_shrunk(tmp_path)
    (tmp_path / "prepare.json").write_text('{"settings": ' + "[" * 100_000)
    assert not _was_shrunk(tmp_path)
    (tmp_path / "prepare.json").write_text('{"settings": {"max_size": 90}}')
    assert _was_shrunk(tmp_path)
