"""`predict`: what lies in the folder afterwards, and what it never touches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made import save_photo
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.coco_panoptic import read_ids, read_split
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.errors import DatasetError, HfDetrPanopticError, ImageError, ModelError, RecipeError
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.predict import GRID_ROWS, PredictionFolder, find_photos, find_truth, predict

pytestmark = pytest.mark.bits

SPACE = LabelSpace(
    [Category("sky", isthing=False), Category("a/b: pipe", isthing=True), Category("rust", isthing=True)]
)


class Told:
    """Sky above, one pipe on the left and one on the right; refuses photos that are one pixel wide."""

    label_space = SPACE

    def __init__(self) -> None:
        self.seen: list[dict] = []

    def segment(self, photos, **settings):
        self.seen.append({"photos": len(photos), **settings})
        if any(photo.width == 1 for photo in photos):
            raise ModelError("too thin", fix="Take a wider one.")
        return [self.map(photo.height, photo.width) for photo in photos]

    @staticmethod
    def map(height: int, width: int) -> PanopticMap:
        ids = np.zeros((height, width), dtype=np.int32)
        ids[: height // 2] = 1
        ids[height // 2 :, : width // 3] = 2
        ids[height // 2 :, -(width // 3) :] = 3
        segments = [Segment(1, 0, 0.9, "model"), Segment(2, 1, 0.8, "model"), Segment(3, 1, 0.7, "model")]
        return PanopticMap(ids, segments, SPACE)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for place, name in enumerate(["a.png", "Übung/b.jpg", "c.png"]):
        save_photo(folder / name, (48 + 9 * place, 32))
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_everything_in_one_folder(photos, tmp_path):
    folder = PredictionFolder(tmp_path / "out", masks="segment")
    model = Told()
    settings = {"threshold": 0.3}
    assert predict(model, [photos], folder, settings=settings, batch_size=2) == []
    assert model.seen == [{"photos": n, "threshold": 0.3, "batch_size": 2} for n in (2, 1)]
    stems = ["Ubung/b", "a", "c"]
    masks = {f"masks/{s}/{m}.png" for s in stems for m in ("001_sky", "002_a_b_pipe", "003_a_b_pipe")}
    expected = {"predictions.json", "predictions.png"} | masks
    expected |= {f"predictions/{s}.png" for s in stems} | {f"overlays/{s}.jpg" for s in stems}
    assert files(folder.path) == expected

    split = read_split(folder.path, "predictions", photos)  # as any other COCO panoptic dataset
    assert split.space == SPACE
    assert [record.file_name for record in split] == ["a.png", "c.png", "Übung/b.jpg"]
    for record in split:
        with Image.open(record.photo) as photo:
            assert record.map() == Told.map(photo.height, photo.width)
    with Image.open(folder.path / "masks" / "c" / "003_a_b_pipe.png") as mask:
        assert mask.mode == "L"
        pixels = np.asarray(mask)
    assert np.array_equal(pixels == 255, Told.map(32, 66).mask(3))
    assert set(np.unique(pixels)) == {0, 255}
    with Image.open(folder.path / "overlays" / "a.jpg") as overlay:
        assert overlay.width == 48
        assert overlay.height > 32
    said = folder.summary()
    assert said.startswith("3 photos: 9 segments of 2 classes, 16.")
    assert "every photo" in said


def test_a_mask_a_class(photos, tmp_path):
    folder = PredictionFolder(tmp_path / "out", masks="class")
    predict(Told(), [photos / "a.png"], folder)
    assert {path.name for path in (folder.path / "masks" / "a").iterdir()} == {"sky.png", "a_b_pipe.png"}
    with Image.open(folder.path / "masks" / "a" / "a_b_pipe.png") as mask:
        both = Told.map(32, 48)
        assert np.array_equal(np.asarray(mask) == 255, both.mask(2) | both.mask(3))


@pytest.fixture
def dataset(tmp_path: Path, photos: Path) -> Path:
    """The truth of two of the photos, its classes in another order, one of the model's missing."""
    space = LabelSpace([SPACE[1], Category("grass", isthing=False), SPACE[0]])
    with DatasetWriter(tmp_path / "data", space) as writer:
        for split, name, size in (("train", "a.png", (48, 32)), ("val", "c.png", (66, 32))):
            ids = np.ones(size[::-1], dtype=np.int32)
            truth = PanopticMap(ids, [Segment(1, 2)], space)
            writer.add(split, name, photos / name, truth, image_id=40 + len(split))
    return tmp_path / "data"


def test_with_truth(photos, dataset, tmp_path):
    folder = PredictionFolder(tmp_path / "out")
    predict(Told(), [photos], folder, truth=dataset)
    content = json.loads((folder.path / "predictions.json").read_text())
    images = {image["file_name"]: image["id"] for image in content["images"]}
    assert (images["a.png"], images["c.png"]) == (45, 43)
    assert images["Übung/b.jpg"] not in (45, 43)
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert names == {1: "a/b: pipe", 3: "sky", 4: "rust"}  # the truth's ids; what it has not comes after
    (entry,) = [entry for entry in content["annotations"] if entry["image_id"] == 45]
    assert [segment["category_id"] for segment in entry["segments_info"]] == [3, 1, 1]
    assert "2 of them are in the dataset of --truth" in folder.summary()
    with Image.open(folder.path / "predictions.png") as grid:
        wide = grid.width
    plain = PredictionFolder(tmp_path / "plain")
    predict(Told(), [photos], plain)
    with Image.open(plain.path / "predictions.png") as grid:
        assert wide > 1.4 * grid.width  # three columns, not two


def test_evaluate_takes_what_predict_wrote(photos, dataset, tmp_path, capsys):
    predict(Told(), [photos], PredictionFolder(tmp_path / "out"), truth=dataset)
    truth, found = dataset / "annotations" / "panoptic_val.json", tmp_path / "out" / "predictions.json"
    assert main(["evaluate", "--truth", str(truth), "--predictions", str(found)]) == 0
    assert "1 image" in capsys.readouterr().out


def test_unreadable_photos_are_told_at_the_end(photos, tmp_path):
    (photos / "torn.jpg").write_bytes(b"torn")
    save_photo(photos / "thin.png", (1, 30))
    folder = PredictionFolder(tmp_path / "out")
    problems = predict(Told(), [photos, photos / "gone.jpg"], folder, batch_size=8)
    assert sorted(str(problem.where).rpartition("/")[2] for problem in problems) == [
        "gone.jpg",
        "thin.png",
        "torn.jpg",
    ]
    assert folder.predicted == 3
    assert {path.stem for path in (folder.path / "overlays").rglob("*.jpg")} == {"a", "b", "c"}


def test_photos_come_once_and_names_stay_apart(photos, tmp_path):
    other = save_photo(tmp_path / "more" / "a.png")
    found, problems = find_photos([photos, photos / "a.png", other, tmp_path / "more"])
    assert problems == []
    assert list(found) == ["a.png", "c.png", "Übung/b.jpg", "more/a.png"]
    save_photo(photos / "out" / "overlays" / "a.jpg")
    again, _ = find_photos([photos], besides=photos / "out")
    assert len(again) == 3
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert list(find_photos([tmp_path / "loop.png"])[0]) == ["loop.png"]  # what is wrong with it, opening it says
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="there is no photo"):
        find_photos([tmp_path / "empty"])


def test_truth_is_found_by_name_unless_two_fit(dataset):
    truth = find_truth(dataset)
    assert truth is not None
    assert truth.of("else/where/a.jpg").image_id == 45
    assert truth.of("d.png") is None
    assert find_truth(None) is None
    with pytest.raises(HfDetrPanopticError, match="no such folder"):
        find_truth(dataset / "gone")


def test_two_photos_of_one_name_need_their_folders(tmp_path):
    with DatasetWriter(tmp_path / "data", SPACE) as writer:
        for folder in ("north", "south"):
            photo = save_photo(tmp_path / folder / "a.png", (48, 32))
            writer.add("val", f"{folder}/a.png", photo, Told.map(32, 48))
    truth = find_truth(tmp_path / "data")
    assert truth is not None
    assert truth.of("south/a.png").file_name == "south/a.png"
    assert truth.of("a.png") is None


def test_a_long_grid_is_cut_and_says_so(tmp_path):
    for place in range(GRID_ROWS + 3):
        save_photo(tmp_path / "many" / f"{place:02}.png")
    folder = PredictionFolder(tmp_path / "out")
    predict(Told(), [tmp_path / "many"], folder)
    assert f"the first {GRID_ROWS} photos" in folder.summary()
    with Image.open(folder.path / "predictions.png") as grid:
        assert grid.height > GRID_ROWS * 32


# --- never over what is there


def test_what_is_there_stays(photos, tmp_path):
    out = tmp_path / "out"
    predict(Told(), [photos], PredictionFolder(out))
    before = {name: (out / name).read_bytes() for name in files(out)}
    with pytest.raises(DatasetError, match="holds predictions already"):
        PredictionFolder(out)
    assert {name: (out / name).read_bytes() for name in files(out)} == before
    (out / "notes.txt").write_text("mine")
    predict(Told(), [photos / "a.png"], PredictionFolder(out, overwrite=True))
    assert files(out) == {
        "notes.txt", "predictions.json", "predictions.png", "predictions/a.png", "overlays/a.jpg"
    }  # fmt: skip


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["masks/mine.png", "predictions.json", "photo.jpg"])
def test_a_persons_folder_is_refused(tmp_path, name, overwrite):
    path = tmp_path / "theirs" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"info": {"generator": "theirs"}}')
    with pytest.raises(DatasetError, match="not empty"):
        PredictionFolder(tmp_path / "theirs", overwrite=overwrite)
    with pytest.raises(DatasetError, match="is a file"):
        PredictionFolder(path)


def test_an_interrupted_run_can_be_replaced(photos, tmp_path):
    class Breaks(Told):
        def segment(self, photos, **settings):
            if self.seen:
                raise KeyboardInterrupt
            return super().segment(photos, **settings)

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        predict(Breaks(), [photos], PredictionFolder(out), batch_size=1)
    assert not (out / "predictions.json").exists()  # no list of half the photos
    assert (out / "predictions" / "a.png").exists()
    predict(Told(), [photos / "c.png"], PredictionFolder(out))  # the same command again needs no --overwrite
    assert "predictions/a.png" not in files(out)
    PredictionFolder(out, overwrite=True)
    with pytest.raises(DatasetError, match="holds predictions already"):
        PredictionFolder(out)


@pytest.mark.parametrize("settings", [{"threshold": 85}, {"min_area": -1, "precision": "fp32"}, {"fill": "viod"}])
def test_a_bad_setting_takes_nothing_away(photos, tmp_path, settings):
    out = tmp_path / "out"
    predict(Told(), [photos], PredictionFolder(out))
    before = {name: (out / name).read_bytes() for name in files(out)}
    model = Told()
    with pytest.raises(RecipeError, match=next(iter(settings))):
        predict(model, [photos], PredictionFolder(out, overwrite=True), settings=settings)
    assert model.seen == []
    assert {name: (out / name).read_bytes() for name in files(out)} == before


# --- the command, with a real model


def test_the_command(tiny_labeler, photos, tmp_path, capsys):
    (photos / "torn.jpg").write_bytes(b"torn")
    out = tmp_path / "out"
    words = ["predict", str(tiny_labeler), str(photos), "--out", str(out), "--threshold", "0.1", "--min-area", "0"]
    assert main([*words, "--batch-size", "2"]) == 0
    said = capsys.readouterr().out
    assert "3 photos: " in said
    assert "1 not predicted:\n" in said
    assert "torn.jpg: is not a photo" in said
    assert said.splitlines()[-1].startswith(f"next: look at {out / 'predictions.png'}, then hf-detr-panoptic evaluate")

    model = DetrForPanopticSegmentation.from_pretrained(tiny_labeler).eval()
    (expected,) = model.segment(photos / "a.png", threshold=0.1, min_area=0)
    assert len(expected.segments) > 1
    assert np.array_equal(read_ids(out / "predictions" / "a.png"), expected.ids)
    assert main(words) == 2
    assert "holds predictions already" in capsys.readouterr().err


def test_nothing_readable_is_a_failure(tiny_labeler, tmp_path, capsys):
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    assert main(["predict", str(tiny_labeler), str(tmp_path / "torn.jpg"), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "no photo was predicted" in said
    assert "next:" not in said
    assert main(["predict", str(tiny_labeler), str(tmp_path / "gone"), "--out", str(tmp_path / "other")]) == 1
    assert "gone" in capsys.readouterr().out
    assert not (tmp_path / "other").exists()
    save_photo(tmp_path / "torn.jpg")  # the corrected command finds nothing in its way
    assert main(["predict", str(tiny_labeler), str(tmp_path / "torn.jpg"), "--out", str(tmp_path / "out")]) == 0


def test_a_run_is_not_its_model(photos, tmp_path, capsys):
    (tmp_path / "run" / "final").mkdir(parents=True)
    (tmp_path / "run" / "final" / "config.json").write_text("{}")
    assert main(["predict", str(tmp_path / "run"), str(photos), "--out", str(tmp_path / "out")]) == 2
    assert f"there is no config.json. Give {tmp_path / 'run' / 'final'}." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_in_tiles_each_is_seen_alone_and_the_map_is_one(tmp_path: Path) -> None:
    photo = save_photo(tmp_path / "a.png", (96, 60))
    model, folder = Told(), PredictionFolder(tmp_path / "out")
    assert predict(model, [photo], folder, batch_size=2, tile=60, overlap=10) == []
    assert model.seen == [{"photos": 2, "batch_size": 2}]
    entry = json.loads((tmp_path / "out/predictions.json").read_text())["annotations"][0]
    # By hand: two tiles of 60×60, the middle of their overlap at 48; sky is one, the pipes do not touch each other.
    assert [(each["category_id"], each["bbox"]) for each in entry["segments_info"]] == [
        (1, [0, 0, 96, 30]),
        (2, [0, 30, 20, 30]),
        (2, [40, 30, 16, 30]),
        (2, [76, 30, 20, 30]),
    ]
