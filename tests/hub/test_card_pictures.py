"""Pictures for the card: which photos, and what becomes of them on their way to the Hub."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from made import speaking_model, tree, write_data, write_run
from PIL import Image

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.errors import HubError, RecipeError
from hf_detr_panoptic.hub.pictures import draw_card_pictures, telling_rows
from hf_detr_panoptic.hub.push import PushAsItTrains
from hf_detr_panoptic.pictures.draw import draw
from hf_detr_panoptic.recipe import Recipe

if TYPE_CHECKING:
    from hub_server import HubServer


def row(*labels: int) -> SimpleNamespace:
    return SimpleNamespace(segments=[SimpleNamespace(label=label) for label in labels])


def test_photos_that_show_most_classes_come_first() -> None:
    rows = [row(0), row(0, 1), row(2), row(0, 1, 3), row(2, 4), row()]
    assert telling_rows(rows, 3) == [rows[3], rows[4], rows[1]]  # type: ignore[arg-type,comparison-overlap]
    assert telling_rows(rows, 99) == [rows[place] for place in (3, 4, 1, 0, 2, 5)]  # type: ignore[arg-type,comparison-overlap]
    assert telling_rows([], 2) == []


def say_where(photo: Path) -> None:
    """As a phone does, and who took it."""
    exif = Image.Exif()
    exif[0x013B] = "Anna Example"
    exif[0x8825] = {1: "N", 2: (47.0, 30.0, 30.0), 3: "E", 4: (8.0, 43.0, 12.0)}
    with Image.open(photo) as image:
        image.load()
        image.save(photo, exif=exif, quality="keep")


def test_on_the_way_to_the_hub(signed_in: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_data(tmp_path / "data")
    run = write_run(tmp_path / "run", data, model=True)
    for photo in (data / "images").iterdir():
        say_where(photo)
    taken = {photo.name: photo.read_bytes() for photo in (data / "images").iterdir()}
    assert all(b"Anna Example" in photo for photo in taken.values())
    words = ["push", str(run), "anna/site", "--final-only", "--pictures", "3", "--data", str(data), "anna/data"]
    assert main(words) == 0
    assert "Of 3 photos 3 say more than their picture, 3 where they were taken" in caplog.text
    assert taken == {photo.name: photo.read_bytes() for photo in (data / "images").iterdir()}
    assert_nothing_is_told(signed_in, taken)
    files = signed_in.files("anna/site")
    names = {"pictures/1.jpg", "pictures/1-prediction.jpg", "pictures/1-panel.jpg"}
    assert {name for name in files if name.startswith("pictures/")} == names  # one photo is all that val has
    card = files["README.md"].decode()
    (widget,) = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))["widget"]
    assert {widget["src"], widget["output"]["url"]} < names
    assert "Photos of the split validation; predicted are segments with a score above 0.3." in card
    for path in (run / "pictures").glob("*.jpg"):
        assert files[f"pictures/{path.name}"] == path.read_bytes()
    stored = Image.open(tmp_path / "data" / "images" / "p2.jpg").convert("RGB")
    with Image.open(run / "pictures" / "1-prediction.jpg") as drawn:
        expected = draw(stored, speaking_model().segment(stored)[0])
        assert drawn.size == expected.size
        assert np.abs(np.asarray(drawn).astype(int) - np.asarray(expected)).mean() < 4  # JPEG


def assert_nothing_is_told(hub: HubServer, taken: dict[str, bytes]) -> None:
    """Neither in the pictures of the card nor in the dataset; its photos are as they were taken, pixel for pixel."""
    pictures = [content for name, content in hub.files("anna/site").items() if name.endswith(".jpg")]
    stored = {
        row["file_name"]: row["image"]["bytes"]
        for name, content in hub.files("anna/data", kind="dataset").items()
        if name.endswith(".parquet")
        for row in pq.read_table(io.BytesIO(content), columns=["file_name", "image"]).to_pylist()
    }
    assert set(stored) == set(taken)
    assert len(pictures) == 3
    for photo in (*pictures, *stored.values()):
        assert b"Anna Example" not in photo
        assert dict(Image.open(io.BytesIO(photo)).getexif()) == {}
    for name, photo in stored.items():
        before, after = (np.asarray(Image.open(io.BytesIO(content))) for content in (taken[name], photo))
        assert np.array_equal(before, after)


def test_a_recipe_may_ask_for_pictures(signed_in: HubServer, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_data(tmp_path / "data"), model=True)
    content = yaml.safe_load((run / "recipe.yaml").read_text())
    content["push"] = {"repository": "anna/site", "stages": False, "pictures": 1}
    recipe = Recipe.from_dict(content)
    assert recipe.push is not None
    pushing = PushAsItTrains(recipe, recipe.push)
    pushing.finished()
    files = signed_in.files("anna/site")
    assert {"pictures/1.jpg", "pictures/1-prediction.jpg", "pictures/1-panel.jpg"} < set(files)
    assert yaml.safe_load(files["README.md"].decode().split("---")[1])["widget"][0]["src"] == "pictures/1.jpg"
    commits = len(signed_in.repository("anna/site").history("main"))
    pushing.finished()  # drawn again, and not a byte of it differs
    assert len(signed_in.repository("anna/site").history("main")) == commits
    with pytest.raises(RecipeError, match="pictures"):
        Recipe.from_dict(content | {"push": {"repository": "anna/site", "pictures": 0}})


def test_a_dry_run_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", write_data(tmp_path / "data"), model=True)
    before = tree(run)
    assert main(["push", str(run), "anna/site", "--final-only", "--pictures", "2", "--dry-run"]) == 0
    assert "2 validation photos would be drawn first, into " in capsys.readouterr().out
    assert tree(run) == before


def test_data_that_is_gone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "data")
    marks = {"images": "photos", "annotations": "marks.json"}
    recipe = Recipe.from_dict({"data": marks, "output": str(run)})
    with pytest.raises(HubError, match="dataset of the run is gone.*without pictures"):
        draw_card_pictures(run, recipe, 2)
    with pytest.raises(HubError, match="0 pictures cannot be drawn"):
        draw_card_pictures(run, recipe, 0)
