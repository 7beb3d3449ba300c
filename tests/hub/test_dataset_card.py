"""The dataset card, and the code on it, over the Parquet that is pushed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from huggingface_hub import DatasetCard
from made import write_data

from hf_detr_panoptic import load_panoptic
from hf_detr_panoptic.dataset.rows import write_parquet
from hf_detr_panoptic.errors import HubError
from hf_detr_panoptic.hub.dataset_card import dataset_card


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return write_data(tmp_path / "data")


@pytest.fixture
def card(folder: Path) -> str:
    return dataset_card(folder, "anna/site-photos", license="cc-by-nc-4.0")


def front(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))


SECTIONS = [
    r"# site-photos\n\nPanoptic segmentation of photos: 2 in `train`, 1 in `validation`\. [^\n]+ "
    r"Kinds of things: 2; of stuff: 2\.\n",
    r"## How to load it\n\n```bash\npip install datasets pillow\n```\n\n```python\n",
    r"data = load_dataset\(\"anna/site-photos\"\)\n",
    r"data = load_panoptic\(\"anna/site-photos\"\)\n",
    r"\| `image` \| the photo[^\n]+\n\| `image_id` \|[^\n]+\n\| `file_name` \|[^\n]+\n"
    r"\| `panoptic` \|[^\n]+\n\| `segments` \|",
    r"\| class \| kind \| in train \| in validation \| marked by people \| added by the labeler \|\n[^\n]+\n"
    r"\| pipe \| thing \| 4 \| 2 \| 6 \| 0 \|\n"
    r"\| crane &lt;script&gt;alert\(1\)&lt;/script&gt; \| thing \| 0 \| 0 \| 0 \| 0 \|\n"
    r"\| sky\\\|grey or \\\*blue\\\* \| stuff \| 2 \| 1 \| 0 \| 3 \|\n"
    r"\| mud \"wet\" 🚧 \| stuff \| 0 \| 0 \| 0 \| 0 \|\n",
    r"- `custom`: people marked 6 segments\.\n- `auto`: `facebook/detr-resnet-50-panoptic` added 3 segments, those "
    r"that it was surer of than 0\.7 \(weights and settings `0123456789abcdef`\)\. Nobody checked them\.",
    r"- An `auto` thing with 50% or more of its pixels under marks was left out\.\n- Pieces of fewer than 64 pixels",
    r"Of all pixels 30\.0% are `custom`, 60\.0% `auto` and 10\.0% void\.\n",
    r"agreement with the labeler, not quality\.\n",
    r"## Licence\n\ncc-by-nc-4\.0\.\n$",
]


def test_the_whole_text_in_its_order(card: str) -> None:
    place = 0
    for pattern in SECTIONS:
        found = re.compile(pattern).search(card, place)
        assert found, f"not found after {card[max(0, place - 200) : place]!r}: {pattern}"
        place = found.end()


def test_the_front_matter(card: str) -> None:
    assert front(card) == {
        "license": "cc-by-nc-4.0",
        "pretty_name": "site-photos",
        "task_categories": ["image-segmentation"],
        "size_categories": ["n<1K"],
        "tags": ["panoptic-segmentation", "coco-panoptic", "hf-detr-panoptic"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": "train", "path": "data/train-*"},
                    {"split": "validation", "path": "data/validation-*"},
                ],
            }
        ],
    }
    assert str(DatasetCard(card)) == card


def test_the_code_on_the_card_runs_on_what_is_pushed(
    folder: Path, card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name on the card is a folder here, laid out as the repository is."""
    pushed = tmp_path / "anna" / "site-photos"
    write_parquet(load_panoptic(folder), pushed)
    (pushed / "README.md").write_text(card, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    plain, ours = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    said = []
    for block in (plain, ours):
        exec(compile(block, "card", "exec"), {})
        said.append(capsys.readouterr().out)
    # By hand: rows 40 to 71, columns 0 to 29 and 50 to 69, of 72 × 96.
    areas = {1: 32 * 30, 2: 32 * 20, 3: 72 * 96 - 32 * 50}
    lines = [f"pipe {areas[1]} pixels, custom", f"pipe {areas[2]} pixels, custom"]
    lines.append(f"sky|grey\nor *blue* {areas[3]} pixels, auto")
    assert said[0] == "\n".join(lines) + "\n"
    boxes = {1: (0, 40, 30, 32), 2: (50, 40, 20, 32), 3: (0, 0, 96, 72)}
    assert said[1] == f"{areas} {boxes}\n"


def test_a_dataset_of_others(folder: Path) -> None:
    (folder / "prepare.json").unlink()
    card = dataset_card(folder, "anna/site", license=None)
    assert "a pretrained model whose name is not recorded added 3 segments. Nobody checked them." in card
    assert "None is stated." in card
    assert "license" not in front(card)
    (folder / "prepare.json").write_text("{")
    with pytest.raises(HubError, match=r"prepare\.json: is damaged"):
        dataset_card(folder, "anna/site", license=None)


def test_nothing_of_this_machine(folder: Path) -> None:
    told = json.loads((folder / "prepare.json").read_text())
    assert str(folder) not in dataset_card(folder, "anna/site", license=None)
    assert told["settings"]["labeler"] in dataset_card(folder, "anna/site", license=None)
    with pytest.raises(HubError, match="licence"):
        dataset_card(folder, "anna/site", license="CC BY")
    with pytest.raises(HubError, match="no name of a repository"):
        dataset_card(folder, "site photos", license=None)
