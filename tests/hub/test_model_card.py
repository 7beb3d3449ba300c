"""The model card: its YAML as the Hub reads it, its text as a person does."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import markdown_it
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from made import HOSTILE as SPACE
from made import noise, scene, tiny_model, write_data, write_run
from PIL import Image

from hf_detr_panoptic.errors import HubError, RunError
from hf_detr_panoptic.hub.cards import handler_source, model_card_files, stage_card
from hf_detr_panoptic.hub.pictures import CardPictures, write_pictures


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("card")
    return write_run(home / "run", write_data(home / "data"))


def card_of(run: Path, license: str | None = "cc-by-4.0", data: str | None = "anna/site-photos") -> str:
    content = model_card_files(run, "anna/site", license=license, data_repository=data)["README.md"]
    assert isinstance(content, bytes)
    return content.decode("utf-8")


@pytest.fixture(scope="module")
def card(run: Path) -> str:
    return card_of(run)


def front(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))


def test_the_front_matter_has_the_types_that_the_hub_wants(card: str) -> None:
    meta = front(card)
    assert {key: meta[key] for key in ("license", "library_name", "pipeline_tag", "base_model", "datasets")} == {
        "license": "cc-by-4.0",
        "library_name": "transformers",
        "pipeline_tag": "image-segmentation",
        "base_model": "facebook/detr-resnet-50-panoptic",
        "datasets": ["anna/site-photos"],
    }
    assert all(isinstance(tag, str) for tag in meta["tags"])
    assert "widget" not in meta  # nobody has drawn pictures


@pytest.mark.parametrize(
    ("start", "base", "said"),
    [
        ({"backbone": "test_resnet"}, "timm/test_resnet.r160_in1k", "the pretrained backbone [timm/test_resnet"),
        ({"backbone": "test_resnet", "weights": "mine.pth"}, None, "the pretrained backbone test_resnet and learnt"),
    ],
)
def test_a_start_from_a_backbone_is_said(run: Path, tmp_path: Path, start: Any, base: str | None, said: str) -> None:
    shutil.copytree(run, tmp_path / "run")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text()) | {"model": start}
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    card = card_of(tmp_path / "run")
    assert front(card).get("base_model") == base
    assert said in card


def test_the_model_index_holds_what_was_measured(card: str) -> None:
    (model,) = front(card)["model-index"]
    (result,) = model["results"]
    assert model["name"] == "site"
    assert result["task"] == {"type": "image-segmentation", "name": "Panoptic segmentation"}
    assert result["dataset"] == {"type": "anna/site-photos", "name": "anna/site-photos", "split": "validation"}
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "pq_yours": 75.0,
        "pq": 53.12,  # of 0.53125, to even
        "sq": 80.0,
        "rq": 75.0,
        "pq_things": 61.6,
        "pq_stuff": 29.9,
        "pq_auto": 25.0,
        "box_ap_yours": 30.0,
        "box_ap": 45.67,
    }
    assert result["metrics"][0]["name"] == "PQ on your classes"
    names = {metric["type"]: metric["name"] for metric in result["metrics"]}
    assert names["pq_auto"] == "PQ, agreement with the labeler"
    # The client that wrote it reads it back to the same text.
    assert str(ModelCard(card)) == card
    assert len(ModelCard(card).data.eval_results) == 9


SECTIONS = [
    r"# site\n\nPanoptic segmentation of photos with DETR: [^\n]+ 2 kinds of things and 2 kinds of stuff\. "
    r"People marked 2 of them, a pretrained model labelled the other 2\.\n",
    r"Measured on 1 photo of the split validation, in percent:\n\n\|  \| PQ \| SQ \| RQ \| classes \|\n[^\n]+\n"
    r"\| your classes \| 75\.0 .*\n\| all \| 53\.1 \| 80\.0 \| 75\.0 \| 4 \|\n\| things \| 61\.6 .*\n"
    r"\| stuff \| 29\.9 .*\n\| agreement with the labeler \| 25\.0 .*\n",
    r"\|  \| your classes \| all \| things \| stuff \|\n\| --- \| ---: \| ---: \| ---: \| ---: \|\n"
    r"\| box AP \| 30\.0 \| 45\.7 \| 45\.7 \| 45\.7 \|\n",
    r"## How to use it\n\n```bash\npip install transformers timm\n```\n",
    r"model = DetrForSegmentation\.from_pretrained\(\"anna/site\"\)",
    r"model = DetrForPanopticSegmentation\.from_pretrained\(\"anna/site\"\)",
    r"### What the pipeline and the widget show\n\n(.|\n)*0\.9 or less; this model was measured at 0\.3\n",
    r"## What it segments\n\n\| class \| kind \| labelled by \| segments in train \| segments in val \| PQ \|\n"
    r"[^\n]+\n"
    r"\| pipe \| thing \| people \| 4 \| 2 \| 50\.0 \|\n"
    r"\| crane &lt;script&gt;alert\(1\)&lt;/script&gt; \| thing \| people \| 0 \| 0 \| – \|\n"
    r"\| sky\\\|grey or \\\*blue\\\* \| stuff \| a model \| 2 \| 1 \| 62\.5 \|\n"
    r"\| mud \"wet\" 🚧 \| stuff \| a model \| 0 \| 0 \| 12\.3 \|\n",
    r"## How it was trained\n\nIt began as \[facebook/detr-resnet-50-panoptic\]\(https://huggingface\.co/facebook/"
    r"detr-resnet-50-panoptic\) and learnt from 2 photos of \[anna/site-photos\]\([^)]+\) in 3 stages\.\n",
    r"\| `detection` \| classes and boxes; [^|]+ \| 30 \| 100 \| 0\.0001, backbone 1e-05 \| 2 \| `box_ap` 50\.0 at "
    r"epoch 12 \| 1 h 02 min \| 2\.5 GB \|\n"
    r"\| `mask_head` \| [^|]+ \| 25 \| 200 \| 0\.0001 \| 2 × 2 \| `pq` 50\.0 at epoch 20 \| 1 min 05 s \| 2\.5 GB \|\n"
    r"\| `finetune` \| [^|]+ \| 10 \| 300 \| 1e-05, backbone 1e-06 \| 2 × 3 \| `pq` 53\.1 at epoch 9 \| 9 s \| .*\n",
    r"Hardware: 2 × NVIDIA H200\. Versions: hf-detr-panoptic 0\.1\.0, transformers 5\.23\.0, torch 2\.15\.0, "
    r"timm 1\.0\.31, python 3\.11\.7\.\n",
    r"## Limits\n\n- Nobody checked 2 classes: `facebook/detr-resnet-50-panoptic` labelled them, where it was surer "
    r"than 0\.7\. The model repeats its mistakes, and PQ on them is agreement with the labeler",
    r"- It had no example of: crane &lt;script&gt;[^\n]+, mud \"wet\" 🚧\.\n"
    r"- It had fewer than 20 examples of: pipe \(4\)",
    r"## How to do it again\n\n`recipe\.yaml` [^\n]+ its one seed is 17\.\n\n```bash\npip install [^\n]+\n"
    r"hf-detr-panoptic train recipe\.yaml --data anna/site-photos\n```\n",
    r"## Licence\n\ncc-by-4\.0\.\n$",
]


def test_the_whole_text_in_its_order(card: str) -> None:
    place = 0
    for pattern in SECTIONS:
        found = re.compile(pattern).search(card, place)
        assert found, f"not found after {card[max(0, place - 200) : place]!r}: {pattern}"
        place = found.end()


def test_names_of_classes_break_nothing(card: str) -> None:
    body = card.split("\n---\n", 1)[1]
    html = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert "<script" not in html
    assert "<td>sky|grey or *blue*</td>" in html
    assert len(re.findall(r"<tr>", html)) == (1 + 5) + (1 + 1) + (1 + 4) + (1 + 3)


def test_no_path_of_this_machine(run: Path, card: str) -> None:
    assert str(run.parent) not in card
    assert str(Path.home()) not in card.replace("/rootless", "")


def test_truth_by_the_labeler_alone_is_called_agreement(tmp_path: Path) -> None:
    card = card_of(write_run(tmp_path / "run", "someone/data", sources=("auto",)), data=None)
    names = {metric["type"]: metric["name"] for metric in front(card)["model-index"][0]["results"][0]["metrics"]}
    assert names["pq"] == "PQ (agreement with the labeler)"
    assert "|  | PQ, agreement with the labeler | SQ | RQ | classes |" in card
    assert front(card)["datasets"] == ["someone/data"]  # the recipe's, where it is one of the Hub


def test_what_is_not_recorded_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tmp_path / "moved away")
    for name in ("metrics.json", "environment.json"):
        (run / name).unlink()
    card = card_of(run, license=None, data=None)
    meta = front(card)
    assert not {"license", "datasets", "model-index"} & meta.keys()
    for sentence in (
        "Its quality is not recorded.",
        "Hardware and versions are not recorded.",
        "How many segments there were is not recorded.",
        "a pretrained model whose name is not recorded",
        "None is stated.",
    ):
        assert sentence in card


def test_figures_of_a_refitted_model_are_said_to_be_of_the_one_before(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "someone/data")
    before = card_of(run)
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "refit": 7}))
    after = card_of(run)
    said = " ".join(after.split())
    assert "in percent, before all 7 photos were learnt from: these weights were then trained once more" in said
    assert "refit" not in before
    assert before.count("| 53.1 |") == after.count("| 53.1 |") > 0


def test_counts_that_training_noted_outlive_the_dataset(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "someone/data")
    noted = {
        "train": {"photos": 5, "fingerprint": "x"},
        "val": {"photos": 2, "fingerprint": "y"},
        "segments": {"train": {"0": {"custom": 7}, "2": {"auto": 4, "custom": 1}}, "val": {"0": {"custom": 3}}},
    }
    (run / "dataset.json").write_text(json.dumps(noted))
    card = card_of(run)
    assert "Measured on 2 photos of the split validation" in card
    assert "learnt from 5 photos of" in card
    assert "| pipe | thing | people | 7 | 3 | 50.0 |" in card
    assert re.search(r"\| sky.* \| stuff \| a model \| 5 \| 0 \| 62\.5 \|", card)
    (run / "dataset.json").write_text(json.dumps(noted | {"segments": {"train": {"9": {"custom": 1}}}}))
    with pytest.raises(RunError, match=r"dataset\.json: is damaged"):
        card_of(run)


def test_a_local_base_model_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", "data")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text()) | {"model": "checkpoints/tiny"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    card = card_of(run)
    assert "base_model" not in front(card)
    assert "It began as a local checkpoint" in card
    assert "checkpoints/tiny" not in card
    again = card.split("## How to do it again")[1]
    assert "hf-detr-panoptic train recipe.yaml --data anna/site-photos\n" in again
    local = "to the DETR checkpoint that it is to begin from: this run's own lay on the machine that trained it.\n"
    assert f"\nSet `model` in it first, {local}" in again
    both = (
        "\nSet `data` and `model` in it first, the one to a dataset of yours in COCO panoptic format, the other "
        + local
    )
    (tmp_path / "data").mkdir()
    assert both in card_of(run, data=None)


def test_pictures_and_the_widget(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "data")
    write_pictures(
        run, [(noise(), scene(), scene()), (noise(1, (1400, 72)), None, _wide())], split="val", threshold=0.3
    )
    files = model_card_files(run, "anna/site", license=None, data_repository=None)
    card = files["README.md"].decode()  # type: ignore[union-attr]
    widget = front(card)["widget"]
    assert widget[0] == {
        "src": "pictures/1.jpg",
        "example_title": "Photo 1",
        "output": {"url": "pictures/1-prediction.jpg"},
    }
    assert card.index("## Pictures") < card.index("## How to use it")  # not below the code
    assert "Photos of the split val; predicted are segments with a score above 0.3." in card
    linked = [entry["src"] for entry in widget] + [entry["output"]["url"] for entry in widget]
    linked += re.findall(r"!\[[^\]]+\]\(([^)]+)\)", card)
    assert set(linked) == {name for name in files if name.startswith("pictures/")}
    assert len(linked) == 6
    for name in linked:
        with Image.open(files[name]) as picture:  # type: ignore[arg-type]
            assert max(picture.size) <= 3 * 640 + 100
            assert not picture.getexif()
    with Image.open(files["pictures/2.jpg"]) as photo:  # type: ignore[arg-type]
        assert photo.width == 640


def _wide() -> Any:
    import numpy as np

    from hf_detr_panoptic import PanopticMap, Segment

    return PanopticMap(np.ones((72, 1400), dtype=np.int32), [Segment(1, 2, score=0.9, source="model")], SPACE)


def test_pictures_that_somebody_else_drew(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "data")
    (run / "pictures").mkdir()
    noise().save(run / "pictures" / "mine.png")
    files = model_card_files(run, "anna/site", license=None, data_repository=None)
    assert files["pictures/mine.png"] == run / "pictures" / "mine.png"
    card = files["README.md"].decode()  # type: ignore[union-attr]
    assert "The split of these photos is not recorded; the threshold" in card
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (47.0, 30.0, 30.0)}
    noise().save(run / "pictures" / "mine.png", exif=exif)
    published = model_card_files(run, "anna/site", license=None, data_repository=None)["pictures/mine.png"]
    assert isinstance(published, bytes)
    assert not Image.open(io.BytesIO(published)).getexif()
    assert Image.open(run / "pictures" / "mine.png").getexif().get_ifd(0x8825)
    assert "widget" not in front(card)
    with pytest.raises(HubError, match="holds other pictures"):
        write_pictures(run, [(noise(), None, scene())], split="val", threshold=0.3)


def test_no_picture_from_outside_of_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "data")
    noise().save(tmp_path / "private.png")
    (run / "pictures").mkdir()
    (run / "pictures" / "a.png").symlink_to(tmp_path / "private.png")
    with pytest.raises(HubError, match="lies outside of the run"):
        CardPictures.read(run)
    (run / "pictures" / "a.png").unlink()
    entry = dict.fromkeys(("photo", "prediction", "panel"), "../../private.png")
    (run / "pictures" / "pictures.json").write_text(
        json.dumps({"split": "val", "threshold": 0.3, "pictures": [entry]})
    )
    with pytest.raises(HubError, match="lies outside of the run"):
        CardPictures.read(run)


@pytest.mark.parametrize("license", ["CC BY 4.0", "apache 2", "", "mit\nwidget: []", "Apache-2.0"])
def test_a_licence_that_is_no_id(run: Path, license: str) -> None:
    with pytest.raises(HubError, match=r"not how the Hub writes a licence. Write an id such as apache-2\.0"):
        card_of(run, license=license)


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "data")
    (run / "final" / "config.json").unlink()
    with pytest.raises(RunError, match=r"not finished: it has no final/config\.json.*train"):
        card_of(run)


@pytest.mark.parametrize("content", ["{", "[1]", "\x00", "null"])
def test_damaged_files(tmp_path: Path, content: str) -> None:
    run = write_run(tmp_path / "run", "data")
    (run / "metrics.json").write_text(content)
    with pytest.raises(RunError, match=r"metrics\.json"):
        card_of(run)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("metrics.json", {"final": [1]}, r"final is \[1\]"),
        ("metrics.json", {"final": {"pq": "x"}}, "pq is 'x'"),
        ("metrics.json", {"final": {"pq": True}}, "pq is True"),
        ("metrics.json", {"final": {"pq": 0.5, "things": 0.5}}, "things is 0.5"),
        ("metrics.json", {"final": {"pq": 0.5, "sources": {"auto": {"pq": {}}}}}, "pq is {}"),
        ("metrics.json", {"final": {"pq": 0.5, "per_class": ["pipe"]}}, "per_class is 'pipe'"),
        ("metrics.json", {"final": {"pq": 0.5, "per_class": [{"name": ["pipe"]}]}}, r"name is \['pipe'\]"),
        ("metrics.json", {"final": {"pq": 0.5, "box": {"all": {"ap": "0.4"}}}}, "ap is '0.4'"),
        ("environment.json", {"processes": "2"}, "processes is '2'"),
        ("environment.json", {"device": "CPU", "earlier": {"device": "CPU"}}, "earlier is {'device': 'CPU'}"),
        ("3-finetune/complete.json", {"seconds": "9"}, "seconds is '9'"),
        ("final/config.json", {"hf_detr_panoptic": {"threshold": "a"}, "id2label": {"0": "sky"}}, "threshold is 'a'"),
        ("final/config.json", {"hf_detr_panoptic": "x" * 99, "id2label": {"0": "sky"}}, "hf_detr_panoptic is 'xxx.*…"),
        ("final/config.json", {"id2label": ["sky"]}, "what the configuration says of the classes is damaged"),
    ],
)
def test_types_that_do_not_fit(run: Path, tmp_path: Path, file: str, content: dict[str, Any], says: str) -> None:
    spoilt = Path(shutil.copytree(run, tmp_path / "run"))
    (spoilt / file).write_text(json.dumps(content))
    with pytest.raises(RunError, match=rf"{file}: is damaged \({says}.*\)\. Restore it, or train again\."):
        card_of(spoilt)


def test_the_detection_stages_card_loads_the_detector(tmp_path: Path) -> None:
    """With every weight, under the names of plain `DetrForObjectDetection`."""
    model = tiny_model(SPACE)
    model.save_pretrained(tmp_path)
    card = stage_card("detection", "anna/site", None).decode()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    said: dict[str, Any] = {}
    exec(code.replace('"anna/site", revision="detection"', repr(str(tmp_path))), said)
    loaded = said["model"].state_dict()
    assert loaded.keys() == model.detr.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.detr.state_dict().items())
    assert "DetrForSegmentation.from_pretrained" in stage_card("finetune", "anna/site", None).decode()


def test_a_repository_needs_a_name(run: Path) -> None:
    with pytest.raises(HubError, match="no name of a repository"):
        model_card_files(run, "somewhere/else/entirely", license=None, data_repository=None)


def test_the_card_shows_the_handlers_own_function(card: str) -> None:
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    function = code[code.index("@torch.no_grad()") : code.index("\n\n\nmodel =")]
    assert function in handler_source()
    assert "hf_detr_panoptic." not in re.sub(r'"hf_detr_panoptic"|config\.hf_detr_panoptic', "", handler_source())
    assert not re.search(r"^\s*(from|import) hf_detr", handler_source(), re.MULTILINE)
