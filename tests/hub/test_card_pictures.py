"""Pictures for the card: which photos, and what becomes of them on their way to the Hub."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from made_run import speaking_model, write_data, write_run
from PIL import Image

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.errors import HubError
from hf_detr_panoptic.steps.card_pictures import draw_card_pictures, telling_rows
from hf_detr_panoptic.training.recipe import Recipe
from hf_detr_panoptic.visual.draw import draw

if TYPE_CHECKING:
    from hub_server import HubServer


def row(*labels: int) -> SimpleNamespace:
    return SimpleNamespace(segments=[SimpleNamespace(label=label) for label in labels])


def test_photos_that_show_most_classes_come_first() -> None:
    rows = [row(0), row(0, 1), row(2), row(0, 1, 3), row(2, 4), row()]
    assert telling_rows(rows, 3) == [rows[3], rows[4], rows[1]]  # type: ignore[arg-type,comparison-overlap]
    assert telling_rows(rows, 99) == [rows[place] for place in (3, 4, 1, 0, 2, 5)]  # type: ignore[arg-type,comparison-overlap]
    assert telling_rows([], 2) == []


def test_on_the_way_to_the_hub(signed_in: HubServer, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_data(tmp_path / "data"), model=True)
    assert main(["push", str(run), "anna/site", "--final-only", "--pictures", "3"]) == 0
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


def test_data_that_is_gone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "data")
    marks = {"images": "photos", "annotations": "marks.json"}
    recipe = Recipe.from_dict({"data": marks, "output": str(run)})
    with pytest.raises(HubError, match="dataset of the run is gone.*without --pictures"):
        draw_card_pictures(run, recipe, 2)
    with pytest.raises(HubError, match="0 pictures cannot be drawn"):
        draw_card_pictures(run, recipe, 0)
