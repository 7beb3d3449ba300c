"""The Hub on this machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # test folders are no packages, and the server is three modules

if TYPE_CHECKING:
    from hub_server import HubServer

    from hf_detr_panoptic.labels import LabelSpace

PUSH = {"repository": "anna/site"}
NOT_TO_GO_UP = (
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "events.out.tfevents.1",
    "checkpoint-3/model.safetensors",
)


def space() -> LabelSpace:
    """The classes of the run and of the dataset here."""
    from hf_detr_panoptic.labels import Category, LabelSpace

    kinds = {"block": True, "disc": True, "sky": False, "mud": False}
    return LabelSpace(
        [Category(name, isthing, source="auto" if name == "sky" else "custom") for name, isthing in kinds.items()]
    )


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A Hub of the test's own; hub_server.py says what it can do."""
    from hub_server import HubServer

    with HubServer() as server:
        yield server


@pytest.fixture
def signed_in(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HubServer:
    """This process sees `hub` as its Hub, as Anna who may write; waiting between two tries takes no time."""
    from huggingface_hub import close_session, constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    close_session()
    return hub


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as `train` leaves one: three models that find different things, and all that must not go up."""
    import torch
    from made import save_tiny_labeler

    from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
    from hf_detr_panoptic.recipe import Recipe
    from hf_detr_panoptic.training.run_folder import StageEnd, stage_folder, write_metrics

    root = tmp_path_factory.mktemp("anna") / "work"
    run = root / "runs" / "site"
    content = {"model": f"{root}/start", "data": f"{root}/data/site", "output": str(run), "push": PUSH}
    Recipe.from_dict(content).save(run / "recipe.yaml", header=f"Again: hf-detr-panoptic train {run}/recipe.yaml")
    ends = []
    for stage, seed in (("detection", 1), ("mask_head", 20), ("finetune", 10)):  # each finds 9 to 12 things
        folder = stage_folder(run, stage)
        model = DetrForPanopticSegmentation.from_pretrained(save_tiny_labeler(folder, space()))
        torch.manual_seed(seed)
        with torch.no_grad():
            model.detr.class_labels_classifier.weight.normal_(std=3.0)
        model.save_pretrained(folder)
        for name in NOT_TO_GO_UP:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"what only this machine needs")
        group = {"pq": 0.5, "sq": 0.8, "rq": 0.625, "n": 2}
        result = {"pq": 0.5, "sq": 0.8, "rq": 0.625, "n": 4, "things": group, "stuff": group, "per_class": []}
        if stage == "detection":
            box = {"all": {"ap": 0.4, "n": 3}, "things": {"ap": 0.4, "n": 2}, "stuff": {"ap": 0.4, "n": 1}}
            result = {"pq": None, "box": box}
        ends.append(
            StageEnd(
                name=stage,
                folder=folder,
                result=result,
                metric="pq",
                best=0.5,
                last=0.5,
                best_epoch=1.0,
                steps=3,
                trained="all of it",
                rows=(),
            )
        )
        ends[-1].mark()
    shutil.copytree(folder, run / "final", ignore=shutil.ignore_patterns("complete.json", *NOT_TO_GO_UP, "check*"))
    write_metrics(run, ends)
    (run / "results.csv").write_text("stage,epoch,step,loss\n")
    return run


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(finished_run, tmp_path / "runs" / "site"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos to train on, three to validate on: ids above 255, scores, two sources, a crowd, void."""
    import numpy as np
    from PIL import Image

    from hf_detr_panoptic.dataset.writer import DatasetWriter
    from hf_detr_panoptic.panoptic_map import PanopticMap, Segment

    folder = tmp_path_factory.mktemp("anna") / "site"
    with DatasetWriter(folder, space()) as writer:
        for place in range(8):
            ids = np.full((48, 64), 300, dtype=np.int32)
            ids[24 + place :] = 7
            ids[10:30, 4 + place : 24 + place] = 70_000
            ids[20:40, 40:55] = 1
            ids[:, :2] = 0
            segments = [Segment(300, 2, score=0.75, source="auto"), Segment(7, 3), Segment(70_000, 0)]
            truth = PanopticMap(ids, [*segments, Segment(1, 1, score=0.9, crowd=place == 3)], space())
            noise = np.random.default_rng(place).integers(0, 40, (48, 64, 3))
            pixels = (ids[..., None] % 200 + noise).astype(np.uint8)
            writer.add("train" if place < 5 else "val", f"p{place}.png", Image.fromarray(pixels), truth)
    return folder
