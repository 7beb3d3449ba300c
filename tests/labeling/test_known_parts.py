"""Marks that say less than everything: for one class alone, or inside a rectangle; by a list, a tag or a rectangle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import save_photo

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment, prepare
from hf_detr_panoptic.annotations.marks import is_only_here, told_by_tags
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.batches import PanopticDataset
from hf_detr_panoptic.dataset.coco_panoptic import Record, read_dataset
from hf_detr_panoptic.dataset.transforms import Draw, Window
from hf_detr_panoptic.errors import DatasetError, HfDetrPanopticError

WALL = LabelSpace([Category("wall", False, source="auto")])
XML = """<annotations><version>1.1</version>
<image id="0" name="0.png" width="60" height="40">
 <box label="pipe" xtl="5" ytl="5" xbr="25" ybr="15" z_order="0"/>{inside}</image>
<image id="1" name="1.png" width="60" height="40"><box label="crack" xtl="30" ytl="20" xbr="39" ybr="29"/></image>
<image id="2" name="2.png" width="60" height="40"><box label="pipe" xtl="5" ytl="5" xbr="25" ybr="15"/></image>
</annotations>"""


class OneWall:
    label_space = WALL
    fingerprint = "wall"

    def segment(self, images: Any, threshold: float) -> list[PanopticMap]:
        return [
            PanopticMap(np.ones((image.height, image.width), np.int32), [Segment(1, 0, 0.9, "model")], WALL)
            for image in images
        ]


def first_record(folder: Path, inside: str = "", **settings: Any) -> Record:
    """Of 0.png, on which a pipe is marked and `inside` stands; the other photos are complete."""
    for n in range(3):
        save_photo(folder / f"photos/{n}.png", (60, 40), seed=n)
    (folder / "marks.xml").write_text(XML.format(inside=inside))
    prepare(folder / "photos", folder / "out", folder / "marks.xml", labeler=OneWall(), boxes="rectangle", **settings)
    records = {record.file_name: record for split in read_dataset(folder / "out").values() for record in split}
    assert not records["1.png"].incomplete
    if records["0.png"].incomplete:
        assert records["0.png"].files.split == "train"
    return records["0.png"]


def test_without_a_word_it_is_complete(tmp_path: Path) -> None:
    assert first_record(tmp_path).incomplete == ()


def test_a_tag_says_for_which_class_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = first_record(tmp_path, '<tag label="only-pipe"/>')
    assert (record.incomplete, record.known_in) == (("crack",), ())
    assert record.space.names == ("wall", "pipe", "crack")
    # The dataset as annotations says the same: its marks do not make it complete.
    again = tmp_path / "again"
    prepare(tmp_path / "photos", again, tmp_path / "out", labeler=OneWall())
    assert {r.file_name: r.incomplete for r in read_dataset(again)["train"]}["0.png"] == ("crack",)


def test_a_rectangle_says_where_alone(tmp_path: Path) -> None:
    record = first_record(tmp_path, '<box label="only-here" xtl="0" ytl="0" xbr="30" ybr="40"/>')
    assert (record.incomplete, record.known_in) == (("pipe", "crack"), ((0.0, 0.0, 30.0, 40.0),))
    assert record.space.names == ("wall", "pipe", "crack")  # it is no class
    assert {record.space[s.label].name for s in record.segments} == {"wall", "pipe"}  # and no object
    item = PanopticDataset([record])[0]
    assert item["labels"]["incomplete"].tolist() == [1, 2]
    np.testing.assert_allclose(item["labels"]["known_in"], [[0.25, 0.5, 0.5, 1.0]])


def test_a_shrunk_photo_has_a_shrunk_rectangle(tmp_path: Path) -> None:
    record = first_record(tmp_path, '<box label="only here" xtl="0" ytl="0" xbr="30" ybr="40"/>', max_size=30)
    assert (record.size, record.known_in) == ((20, 30), ((0.0, 0.0, 15.0, 20.0),))


def test_a_list_says_it_photo_by_photo(tmp_path: Path) -> None:
    (tmp_path / "seen.yaml").write_text("0.png: [crack]\n2.png: all\n")
    record = first_record(tmp_path, '<tag label="only-pipe"/>', looked_at=tmp_path / "seen.yaml")
    assert record.incomplete == ()  # both classes together
    (tmp_path / "seen.yaml").write_text("0.png: crack\n")
    assert first_record(tmp_path, looked_at=tmp_path / "seen.yaml").incomplete == ("pipe",)
    (tmp_path / "seen.yaml").write_text("0.png: all\n")
    box = '<box label="only-here" xtl="0" ytl="0" xbr="30" ybr="40"/>'
    assert first_record(tmp_path, box, looked_at=tmp_path / "seen.yaml").incomplete == ()


def test_the_summary_says_so_and_the_words_follow_through_other_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = '<box label="only-here" xtl="0" ytl="0" xbr="30" ybr="40"/>'
    first_record(tmp_path, box)
    data = tmp_path / "out"
    words = ["--rename", "pipe=tube", "--out", str(tmp_path / "new")]
    assert main(["relabel", str(data), *words]) == 0
    new = {r.file_name: r for split in read_dataset(tmp_path / "new").values() for r in split}["0.png"]
    assert (new.incomplete, new.known_in) == (("tube", "crack"), ((0.0, 0.0, 30.0, 40.0),))
    assert main(["split", str(data), "--seed", "3"]) == 0
    again = {r.file_name: r for r in read_dataset(data)["train"]}["0.png"]
    assert again.known_in == ((0.0, 0.0, 30.0, 40.0),)
    content = json.loads((data / "annotations/panoptic_train.json").read_text())
    content["images"][0]["known_in"] = [[1, 2]]
    (data / "annotations/panoptic_train.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="known_in"):
        read_dataset(data)


@pytest.mark.parametrize(
    ("inside", "listed", "answer"),
    [
        ('<tag label="only-pip"/>', None, r"complete for 'pip', which is no class of yours.*Did you mean 'pipe'"),
        ('<polygon label="only-here" points="0,0;30,0;0,30"/>', None, "only-here is no rectangle"),
        ("", "9.png: all\n", "there is no photo '9.png'"),
        ("", "0.png: 7\n", "0.png has 7.*Write all, a class, or a list"),
    ],
)
def test_what_cannot_be(tmp_path: Path, inside: str, listed: str | None, answer: str) -> None:
    settings = {}
    if listed is not None:
        (tmp_path / "seen.yml").write_text(listed)
        settings["looked_at"] = tmp_path / "seen.yml"
    with pytest.raises(HfDetrPanopticError, match=answer):
        first_record(tmp_path, inside, **settings)


def test_words() -> None:
    assert all(map(is_only_here, ("only-here", "Only here", "only_here", "ONLY HERE 2")))
    assert not any(map(is_only_here, ("here", "only-pipe")))
    assert told_by_tags([]) == (False, None)
    assert told_by_tags(["done"]) == (True, None)
    assert told_by_tags(["only: brick stack", "ONLY_pipe", "done"]) == (False, ("brick stack", "pipe"))
    assert told_by_tags(["only"]) == (True, None)


def test_a_rectangle_is_cut_resized_and_mirrored_with_its_photo() -> None:
    draw = Draw(Window(10, 20, 40, 80), (20, 40), flip=True)
    # x 10 to 60 leaves 20 to 60 of the window's 20 to 100: its left half, mirrored the right one; y is all of it.
    assert draw.boxes([(10, 0, 50, 100), (0, 0, 20, 10)]) == [[0.75, 0.5, 0.5, 1.0]]
