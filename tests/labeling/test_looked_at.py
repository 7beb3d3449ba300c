"""Photos that nobody may have looked at: what `prepare` makes of them, and what the split does with them."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import save_photo, tree
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment, load_panoptic, prepare
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.card import Contents, dataset_card
from hf_detr_panoptic.dataset.check import check_dataset
from hf_detr_panoptic.dataset.coco_panoptic import Record, read_dataset
from hf_detr_panoptic.dataset.copies import fingerprint
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.errors import DatasetError, RecipeError
from hf_detr_panoptic.labeling.split import split
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.processing import DetrPanopticProcessor
from hf_detr_panoptic.settings import Prepare

WALL = LabelSpace([Category("wall", False, source="auto")])
MARKED = (2, 7, 11, 16)


class OneWall:
    """A labeler that sees nothing but wall."""

    label_space = WALL
    fingerprint = "wall"

    def segment(self, images: Any, threshold: float) -> list[PanopticMap]:
        return [
            PanopticMap(np.ones((image.height, image.width), np.int32), [Segment(1, 0, 0.9, "model")], WALL)
            for image in images
        ]


def marks(listed: Any, marked: Any = MARKED) -> dict[str, Any]:
    """What CVAT exports as COCO: photos with and without a pipe and a crack, side by side in `images`."""
    boxes = [(1, (5, 5, 20, 10)), (2, (30, 20, 9, 9))]
    return {
        "images": [{"id": n + 1, "file_name": f"{n:02}.png", "width": 60, "height": 40} for n in listed],
        "categories": [{"id": 1, "name": "pipe"}, {"id": 2, "name": "crack"}],
        "annotations": [
            {
                "id": 100 * n + kind,
                "image_id": n + 1,
                "category_id": kind,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                "bbox": [x, y, w, h],
                "area": w * h,
            }
            for n in marked
            for kind, (x, y, w, h) in boxes
        ],
    }


@pytest.fixture
def site20(tmp_path: Path) -> Path:
    """Twenty photos, all listed, four of them marked."""
    for n in range(20):
        save_photo(tmp_path / f"photos/{n:02}.png", (60, 40), seed=n)
    (tmp_path / "marks.json").write_text(json.dumps(marks(range(20))))
    return tmp_path


def prepared(site: Path, out: str = "out", **settings: Any) -> Any:
    return prepare(site / "photos", site / out, site / "marks.json", labeler=OneWall(), **settings)


def records(folder: Path) -> dict[str, tuple[str, Record]]:
    """The person's name of each photo → where it is, and its record."""
    read = read_dataset(folder)
    return {
        record.original_file or record.file_name: (part, record) for part, split in read.items() for record in split
    }


def incomplete_in(folder: Path) -> dict[str, set[str]]:
    """Part → the photos there that are incomplete; each must be so for both classes of the person, and no other."""
    found: dict[str, set[str]] = {}
    for name, (part, record) in records(folder).items():
        if record.incomplete:
            assert set(record.incomplete) == {"pipe", "crack"}
            found.setdefault(part, set()).add(name)
    return found


def names(numbers: Any) -> set[str]:
    return {f"{n:02}.png" for n in numbers}


NOT_MARKED = names(set(range(20)) - set(MARKED))


def test_sixteen_of_twenty_listed_photos_are_incomplete_and_none_is_validated(site20: Path) -> None:
    done = prepared(site20)
    assert incomplete_in(site20 / "out") == {"train": NOT_MARKED}
    parts = {name: part for name, (part, _) in records(site20 / "out").items()}
    assert len(parts) == 20
    assert {name for name, part in parts.items() if part == "val"} < names(MARKED)
    assert list(parts.values()).count("val") == 1  # a fifth of the four
    said = str(done)
    assert said.count("16 of 20 photos carry no mark of yours, and nobody may have looked at them yet") == 1
    assert "--looked-at all" in said
    assert "is marked on" not in said  # the four that were looked at have both classes
    assert done.to_dict()["counts"]["incomplete"] == 16


def test_dry_run_says_it_too(site20: Path, tiny_labeler: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--images", site20 / "photos", "--annotations", site20 / "marks.json", "--labeler", tiny_labeler]
    assert main(["prepare", *map(str, words), "--out", str(site20 / "dry"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "16 of 20 photos carry no mark of yours" in said
    assert "train 19 (95%), val 1 (5%)" in said


def test_whoever_looked_at_everything_says_so(site20: Path) -> None:
    done = prepared(site20, looked_at="all")
    assert incomplete_in(site20 / "out") == {}
    assert {part: len(split) for part, split in read_dataset(site20 / "out").items()} == {"train": 16, "val": 4}
    assert "no mark of yours" not in str(done)
    assert "incomplete" not in (site20 / "out/annotations/panoptic_train.json").read_text()


def test_a_list_says_which_were_looked_at(site20: Path) -> None:
    (site20 / "seen.txt").write_text("\ufeff00.png\n\n  01.png \n07.png\n05\n", encoding="utf-8")
    prepared(site20, looked_at=site20 / "seen.txt")
    assert incomplete_in(site20 / "out") == {"train": NOT_MARKED - names([0, 1, 5])}
    settings = json.loads((site20 / "out/prepare.json").read_bytes())["settings"]
    assert settings["looked_at"] == "seen.txt"


def test_a_list_with_strangers_is_a_sentence(site20: Path) -> None:
    (site20 / "seen.txt").write_text("00.png\n000.png\n")
    with pytest.raises(DatasetError, match=r"seen\.txt, line 2: there is no photo '000\.png'.*Did you mean '00\.png'"):
        prepared(site20, looked_at=site20 / "seen.txt")
    with pytest.raises(DatasetError, match=r"the list of photos that were looked at cannot be read \(No such file"):
        prepared(site20, looked_at=site20 / "lost.txt")
    (site20 / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="it is no text in UTF-8"):
        prepared(site20, looked_at=site20 / "binary")
    assert not (site20 / "out").exists()


def test_the_setting_as_it_is_written(site20: Path) -> None:
    def read(word: Any) -> Any:
        return Prepare.read({"images": "photos", "out": "out", "looked_at": word}).looked_at

    assert (read("all"), read("marked"), read("seen.txt")) == ("all", "marked", Path("seen.txt"))
    with pytest.raises(RecipeError, match="looked_at is true"):
        read(True)


def test_tags_of_cvat_and_flags_of_labelme_count(site20: Path) -> None:
    shape = "".join(
        f'<polygon label="{label}" points="5,{y};25,{y};25,{y + 8}" z_order="0"/>'
        for label, y in (("pipe", 5), ("crack", 25))
    )
    inside = {0: shape, 1: '<tag label="empty" source="manual"></tag>', 2: ""}
    xml = "".join(
        f'<image id="{n}" name="{n:02}.png" width="60" height="40">{content}</image>' for n, content in inside.items()
    )
    (site20 / "marks.json").unlink()
    (site20 / "a.xml").write_text(f"<annotations><version>1.1</version>{xml}</annotations>")
    prepare(site20 / "photos", site20 / "cvat", site20 / "a.xml", labeler=OneWall())
    assert incomplete_in(site20 / "cvat") == {"train": {"02.png"}}

    (site20 / "labelme").mkdir()
    both = [
        {"label": label, "shape_type": "polygon", "points": [[5, y], [25, y], [25, y + 8]]}
        for label, y in (("pipe", 5), ("crack", 25))
    ]
    told = {0: (both, {}), 1: ([], {"empty": True}), 2: ([], {"empty": False})}
    for n, (shapes, flags) in told.items():
        content = {"imagePath": f"{n:02}.png", "imageWidth": 60, "imageHeight": 40, "shapes": shapes, "flags": flags}
        (site20 / f"labelme/{n:02}.json").write_text(json.dumps({"version": "5.0", **content}))
    prepare(site20 / "photos", site20 / "flags", site20 / "labelme", labeler=OneWall())
    assert incomplete_in(site20 / "flags") == {"train": {"02.png"}}


def test_photos_that_no_file_lists(site20: Path) -> None:
    (site20 / "marks.json").write_text(json.dumps(marks([*MARKED, 0, 1])))  # two listed without a mark
    unlisted = NOT_MARKED - names([0, 1])
    found = {}
    for word in ("skip", "auto", "learn"):
        done = prepared(site20, word, unannotated=word)
        found[word] = incomplete_in(site20 / word)
        assert len(done.photos) == (6 if word == "skip" else 20)
    assert found["skip"] == {"train": names([0, 1])}
    assert found["auto"] == {"train": names([0, 1])}
    assert found["learn"] == {"train": NOT_MARKED}
    assert len(read_dataset(site20 / "auto")["val"]) == 4  # a fifth of eighteen: unlisted ones share it, as ever
    assert "14 photos or marks are not in the dataset" in str(prepared(site20, "skip"))
    (site20 / "seen.txt").write_text("\n".join(sorted(unlisted)[:3]))
    prepared(
        site20, "list", looked_at=site20 / "seen.txt"
    )  # nothing is on them, says who looked: that is worth a photo
    assert set(records(site20 / "list")) == names(MARKED) | names([0, 1]) | set(sorted(unlisted)[:3])
    assert incomplete_in(site20 / "list") == {"train": names([0, 1])}


def test_without_any_mark_there_is_nothing_to_be_incomplete_for(site20: Path) -> None:
    (site20 / "marks.json").write_text(json.dumps(marks(range(20), [])))
    prepared(site20)
    assert incomplete_in(site20 / "out") == {}


def test_one_mark_in_all(site20: Path) -> None:
    (site20 / "marks.json").write_text(json.dumps(marks(range(20), [3])))
    done = prepared(site20)
    assert incomplete_in(site20 / "out") == {"train": names(range(20)) - {"03.png"}}
    assert "nothing is left for val: a single photo, or group of photos, can be shared out. Mark more." in str(done)


def test_photos_marked_since_are_shared_out_and_photos_in_doubt_leave_val(site20: Path) -> None:
    """Of twenty marked later a fifth is validated; the four that were shared out stay where they were."""
    prepared(site20)
    before = {name: part for name, (part, record) in records(site20 / "out").items() if not record.incomplete}
    (site20 / "marks.json").write_text(json.dumps(marks(range(20), range(20))))
    prepared(site20)
    now = {name: part for name, (part, _) in records(site20 / "out").items()}
    assert list(now.values()).count("val") == 4
    assert {name: now[name] for name in before} == before
    assert incomplete_in(site20 / "out") == {}
    validated = next(name for name, part in now.items() if part == "val")
    left = [n for n in range(20) if f"{n:02}.png" != validated]
    (site20 / "marks.json").write_text(json.dumps(marks(range(20), left)))
    prepared(site20)
    part, record = records(site20 / "out")[validated]
    assert (part, record.incomplete) == ("train", ("pipe", "crack"))


def test_overlay_alone_keeps_them_out_of_val(site20: Path) -> None:
    (site20 / "marks.json").write_text(json.dumps(marks(range(20), range(20))))
    prepared(site20)
    validated = [name for name, (part, _) in records(site20 / "out").items() if part == "val"]
    left = [n for n in range(20) if f"{n:02}.png" not in validated]
    (site20 / "marks.json").write_text(json.dumps(marks(range(20), left)))
    words = ["--images", site20 / "photos", "--annotations", site20 / "marks.json", "--out", site20 / "out"]
    assert main(["overlay", *map(str, words)]) == 0
    assert incomplete_in(site20 / "out") == {"train": set(validated)}


def test_a_killed_run_remembers_which_were_incomplete(site20: Path) -> None:
    from hf_detr_panoptic.labeling.inputs import Earlier

    prepared(site20)
    earlier = Earlier.of(site20 / "out")
    earlier.remember(site20 / "out")
    assert Earlier.of(site20 / "out").shared_out == earlier.shared_out
    assert set(earlier.shared_out) == names(MARKED)


# --- the split


PHOTOS = {f"{n:02}.png": {"pipe"} for n in range(20)}


def test_shares_are_of_the_photos_that_were_looked_at() -> None:
    photos = PHOTOS | {name: set[str]() for name in names(range(10))}
    shared = split(photos, 0.2, test=0.1, incomplete=names(range(10)))
    sides = {part: {n for n, side in shared.assignment.items() if side == part} for part in ("train", "val", "test")}
    assert {part: len(side - names(range(10))) for part, side in sides.items()} == {"train": 7, "val": 2, "test": 1}
    assert sides["train"] > names(range(10))


def test_who_is_where_does_not_depend_on_the_incomplete() -> None:
    alone = split({name: PHOTOS[name] for name in PHOTOS.keys() - names([0, 3, 4])}, 0.3)
    among = split(PHOTOS, 0.3, incomplete=names([0, 3, 4]))
    assert {name: among.assignment[name] for name in alone.assignment} == alone.assignment


def test_a_photo_like_one_of_val_is_told(tmp_path: Path) -> None:
    like = next(name for name, part in split(PHOTOS, 0.2).assignment.items() if part == "val")
    seen = fingerprint(save_photo(tmp_path / "same.png", (60, 40), seed=1))
    photos = PHOTOS | {"twin.png": set()}
    shared = split(photos, 0.2, prints={like: seen, "twin.png": seen}, incomplete=["twin.png"])
    assert shared.assignment[like] == "val"
    assert shared.report.beside == ("twin.png",)
    assert "1 of these are like photos of val or test, twin.png first" in str(shared.report)


def test_prepare_leaves_out_what_is_like_a_photo_of_val(site20: Path) -> None:
    """It cannot be learnt from without flattering the figures, and nothing can be measured on it."""
    prepared(site20)
    validated = next(name for name, (part, _) in records(site20 / "out").items() if part == "val")
    shutil.copy(site20 / "photos" / validated, site20 / "photos/twin.png")
    prepared(site20, unannotated="learn")
    assert "twin.png" not in records(site20 / "out")
    assert records(site20 / "out")[validated][0] == "val"
    told = (site20 / "out/skipped.csv").read_text()
    assert 'twin.png,"nobody may have looked at it, and it is like a photo of val"' in told


def test_the_split_command_keeps_them_in_train(site20: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(site20)
    assert main(["split", str(site20 / "out"), "--fraction", "0.5", "--seed", "3"]) == 0
    assert incomplete_in(site20 / "out") == {"train": NOT_MARKED}
    assert len(read_dataset(site20 / "out")["val"]) == 2
    assert main(["split", str(site20 / "out"), "--fraction", "0.5", "--out", str(site20 / "copy")]) == 0
    assert incomplete_in(site20 / "copy") == {"train": NOT_MARKED}
    assert "16 photos that nobody may have looked at: train; shares are of the rest" in capsys.readouterr().out


# --- a dataset of ours as annotations


def test_of_a_dataset_of_ours_only_what_people_marked_is_a_mark(site20: Path) -> None:
    prepared(site20)
    first = records(site20 / "out")
    shutil.move(site20 / "out", site20 / "earlier")
    prepare(site20 / "photos", site20 / "out", site20 / "earlier/annotations", labeler=OneWall())
    assert records(site20 / "out").keys() == first.keys()
    for name, (_, record) in records(site20 / "out").items():
        assert {(record.space[s.label].name, s.source) for s in record.segments} == {
            (first[name][1].space[s.label].name, s.source) for s in first[name][1].segments
        }
        assert record.incomplete == first[name][1].incomplete


# --- another dataset mixed in


def test_a_foreign_photo_is_incomplete_for_what_its_dataset_does_not_know(site20: Path) -> None:
    space = LabelSpace([Category("wall", False), Category("pipe", True)])
    ids = np.ones((40, 60), np.int32)
    ids[:10, :10] = 2
    with DatasetWriter(site20 / "foreign", space) as writer:
        for n in range(2):
            map = PanopticMap(ids, [Segment(1, 0), Segment(2, 1)], space)
            photo = save_photo(site20 / f"f{n}.png", (60, 40), seed=50 + n)
            writer.add("train", f"f{n}.png", photo, map, incomplete=["pipe"] if n else [])
    prepared(site20, mix=site20 / "foreign")
    found = {name: record.incomplete for name, (_, record) in records(site20 / "out").items() if "mix" in name}
    assert found == {"mix/f0.png": ("crack",), "mix/f1.png": ("pipe", "crack")}


def test_where_all_are_marked_no_byte_speaks_of_it(site20: Path) -> None:
    (site20 / "marks.json").write_text(json.dumps(marks(range(20), range(20))))
    prepared(site20)
    prepared(site20, "told", looked_at="all")
    plain, told = tree(site20 / "out"), tree(site20 / "told")
    assert not [name for name, content in plain.items() if b"incomplete" in content or b"looked_at" in content]
    del plain["prepare.json"], told["prepare.json"]
    assert plain.keys() == told.keys()
    assert {name for name in plain if plain[name] != told[name]} <= {"README.md", "report.html"}  # they show settings
    assert Image.open(site20 / "out/images/00.png").size == (60, 40)


# --- out to CVAT and back


def review(site: Path, change: Any = None, *words: str) -> dict[str, set[str]]:
    assert main(["export-review", str(site / "out"), str(site / "r.zip"), "--format", "coco"]) == 0
    with zipfile.ZipFile(site / "r.zip") as archive:
        told = json.loads(archive.read("annotations/instances_default.json"))
    if change:
        change(told)
    (site / "back.json").write_text(json.dumps(told))
    back = [str(site / "out"), str(site / "back.json"), "--out", str(site / "new"), *words]
    assert main(["import-review", *back]) == 0
    return incomplete_in(site / "new")


def test_a_review_that_changes_nothing_keeps_it(site20: Path) -> None:
    prepared(site20)
    assert review(site20) == {"train": NOT_MARKED}


def test_whoever_changed_something_has_looked(site20: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def draw_a_pipe(told: Any) -> None:
        numbers = {image["file_name"]: image["id"] for image in told["images"]}
        pipe = next(entry["id"] for entry in told["categories"] if entry["name"] == "pipe")
        shape = {"segmentation": [[5, 5, 25, 5, 25, 15, 5, 15]], "bbox": [5, 5, 20, 10], "area": 200, "iscrowd": 0}
        mark = {"id": 9999, "image_id": numbers["00.png"], "category_id": pipe, **shape}
        told["annotations"].append(mark)

    prepared(site20)
    assert review(site20, draw_a_pipe) == {"train": NOT_MARKED - {"00.png"}}
    assert "1 photo looked at since: they count as complete" in capsys.readouterr().out


def test_whoever_looked_and_changed_nothing_says_so(site20: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(site20)
    (site20 / "seen.txt").write_text("00.png\n02.png\n")
    assert review(site20, None, "--looked-at", str(site20 / "seen.txt")) == {"train": NOT_MARKED - {"00.png"}}
    assert review(site20, None, "--looked-at", "all") == {}
    (site20 / "seen.txt").write_text("0O.png\n")
    words = ["import-review", site20 / "out", site20 / "back.json", "--out", site20 / "no"]
    assert main([*map(str, words), "--looked-at", str(site20 / "seen.txt")]) == 2
    assert "seen.txt, line 1: there is no photo '0O.png'" in capsys.readouterr().err


# --- what is said of such a dataset


def test_check_counts_them_and_warns_where_they_are_measured_on(site20: Path) -> None:
    prepared(site20)
    report = check_dataset(site20 / "out")
    assert "train: 19 photos (16 that nobody may have looked at), " in str(report)
    assert report.to_dict()["splits"]["train"]["incomplete"] == 16
    assert "incomplete" not in report.to_dict()["splits"]["val"]
    assert "incomplete-measured" not in report.findings
    path = site20 / "out/annotations/panoptic_val.json"
    content = json.loads(path.read_text())
    content["images"][0]["incomplete"] = ["crack"]
    path.write_text(json.dumps(content))
    report = check_dataset(site20 / "out")
    found = report.findings["incomplete-measured"]
    assert (found.level, found.count) == ("warning", 1)
    assert found.examples[0][1].endswith(".png: crack")
    assert report.ok


def test_cards_and_report_say_it(site20: Path) -> None:
    prepared(site20)
    sentence = "Nobody may have looked at 16 of the photos"
    assert sentence in (site20 / "out/README.md").read_text()
    published = dataset_card(Contents.read(site20 / "out", {}), "site", repository="me/site")
    assert sentence in published
    assert "| `incomplete` | the classes that nobody may have looked for on the photo |" in published
    assert "Nobody may have looked at 16 of these photos" in (site20 / "out/report.html").read_text()
    prepared(site20, "all", looked_at="all")
    for name in ("README.md", "report.html"):
        assert "Nobody may" not in (site20 / "all" / name).read_text()
    assert "incomplete" not in dataset_card(Contents.read(site20 / "all", {}), "site", repository="me/site")


def test_the_processor_of_transformers_knows_it(site20: Path) -> None:
    prepared(site20)
    loaded = load_panoptic(site20 / "out")
    processor = DetrPanopticProcessor(loaded.label_space, Preprocess(shortest_edge=40, longest_edge=60))
    labels = [item["labels"]["incomplete"].tolist() for item in loaded["train"].with_transform(processor)]
    both = [loaded.label_space.index(name) for name in ("pipe", "crack")]
    assert sorted(labels) == [[]] * 3 + [both] * 16
