"""Pushed by the command, loaded by another machine: a fresh process with an empty cache, from the name alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation

if TYPE_CHECKING:
    from hub_server import HubServer

pytestmark = pytest.mark.slow  # each step is a new Python that imports everything
FOLDERS = {"detection": "1-detection", "mask_head": "2-mask_head", "finetune": "3-finetune", "main": "final"}

SEGMENT = """
import sys
import numpy as np
from PIL import Image
from hf_detr_panoptic import DetrForPanopticSegmentation
photo, out, *revisions = sys.argv[1:]
for revision in revisions:
    model = DetrForPanopticSegmentation.from_pretrained("anna/site", revision=revision)
    (found,) = model.eval().segment(Image.open(photo))
    np.save(f"{out}/{revision}.npy", found.ids)
"""

ROWS = """
import hashlib, json, sys
import datasets
from hf_detr_panoptic import load_panoptic
from hf_detr_panoptic.dataset.rows import rows_of
loaded = load_panoptic("anna/data")
plain = datasets.load_dataset("anna/data")
found = {}
for split in loaded:
    for row in rows_of(loaded[split], loaded.label_space):
        found[row.file_name] = {
            "split": split,
            "photo": hashlib.sha256(row.photo).hexdigest(),
            "ids": hashlib.sha256(row.map().ids.tobytes()).hexdigest(),
            "segments": [[s.id, s.label, s.score, s.source, s.crowd] for s in row.segments],
        }
space = [[c.name, c.isthing, c.source] for c in loaded.label_space]
print(json.dumps({"rows": found, "space": space, "plain": {name: len(rows) for name, rows in plain.items()}}))
"""


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    y, x = np.mgrid[:90, :120]
    Image.fromarray(np.stack([x * 2, y * 2, (x // 20 + y // 15) % 2 * 200], axis=-1).astype(np.uint8)).save(path)
    return path


def ids_here(folder: Path, photo: Path) -> np.ndarray:
    (found,) = DetrForPanopticSegmentation.from_pretrained(folder).eval().segment(Image.open(photo))
    return np.asarray(found.ids)


def test_each_revision_segments_as_its_folder(hub: HubServer, run: Path, photo: Path, tmp_path: Path) -> None:
    done = hub.cli("push", run, "anna/site", home=tmp_path / "one", HF_DEBUG="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert hub.token not in done.stdout + done.stderr
    assert hub.leaks() == []
    fresh = hub.python(SEGMENT, photo, tmp_path, *FOLDERS, home=tmp_path / "other")
    assert fresh.returncode == 0, fresh.stderr[-3000:]
    maps = {revision: np.load(tmp_path / f"{revision}.npy") for revision in FOLDERS}
    for revision, folder in FOLDERS.items():
        assert np.array_equal(maps[revision], ids_here(run / folder, photo)), revision
        assert len(np.unique(maps[revision])) > 2
    assert not np.array_equal(maps["detection"], maps["mask_head"])  # else any revision would do
    assert not np.array_equal(maps["mask_head"], maps["finetune"])


def test_a_dataset_comes_back_whole(hub: HubServer, dataset: Path, tmp_path: Path) -> None:
    words = ["push", "--data", dataset, "anna/data"]
    done = hub.cli(*words, home=tmp_path / "one")
    assert done.returncode == 0, done.stderr[-3000:]
    files = hub.files("anna/data", kind="dataset")
    assert {"README.md", "label_space.json", "data/train-00000-of-00001.parquet"} <= set(files)
    assert not [name for name, content in files.items() if str(dataset.parent).encode() in content]
    fresh = hub.python(ROWS, home=tmp_path / "other")
    assert fresh.returncode == 0, fresh.stderr[-3000:]
    found = json.loads(fresh.stdout.splitlines()[-1])
    assert found["plain"] == {"train": 5, "validation": 3}
    assert found["space"] == [
        ["block", True, "custom"],
        ["disc", True, "custom"],
        ["sky", False, "auto"],
        ["mud", False, "custom"],
    ]
    here = {"train": "train", "val": "validation"}
    expected = {
        record.file_name: {
            "split": here[split],
            "photo": sha256(record.photo.read_bytes()),
            "ids": sha256(record.map().ids.tobytes()),
            "segments": [[s.id, s.label, s.score, s.source, s.crowd] for s in record.segments],
        }
        for split, records in read_dataset(dataset).items()
        for record in records
    }
    assert found["rows"] == expected
    offline = hub.python(ROWS, home=tmp_path / "other", HF_HUB_OFFLINE="1")  # from the cache
    assert json.loads(offline.stdout.splitlines()[-1]) == found
    sent = list(hub.sent)
    again = hub.cli(*words, home=tmp_path / "third")  # written again, and not a byte of it differs
    assert again.returncode == 0, again.stderr[-3000:]
    assert hub.sent == sent
    assert "all of it is there already" in again.stdout


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_dataset_without_a_label_space(hub: HubServer, dataset: Path, tmp_path: Path) -> None:
    hub.cli("push", "--data", dataset, "anna/data", home=tmp_path / "one")
    main = hub.repository("anna/data", kind="dataset")
    files = {path: blob for path, blob in main.at("main").files.items() if path != "label_space.json"}
    main.commit("main", files, "without it")
    fresh = hub.python(ROWS, home=tmp_path / "other")
    assert "does not say whether block, disc, sky, mud are things or stuff" in fresh.stderr


def test_a_smaller_dataset_leaves_no_old_rows(hub: HubServer, dataset: Path, tmp_path: Path) -> None:
    old = {"label_space.json": b"{}", "data/train-00000-of-00002.parquet": b"old", "notes.md": b"mine"}
    hub.add("anna/data", old, kind="dataset", private=True)
    done = hub.cli("push", "--data", dataset, "anna/data", home=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    files = hub.files("anna/data", kind="dataset")
    assert sorted(name for name in files if name.endswith(".parquet")) == [
        "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet",
    ]
    assert files["notes.md"] == b"mine"


@pytest.fixture
def recipe(dataset: Path, finished_run: Path, tmp_path: Path) -> Path:
    """Three short stages that push themselves, the dataset too."""
    stage = {"num_train_epochs": 1, "use_cpu": True, "dataloader_num_workers": 0, "per_device_train_batch_size": 2}
    content = {
        "model": str(finished_run / "final"),
        "data": str(dataset),
        "output": str(tmp_path / "runs" / "trained"),
        "augmentation": {"short_sides": [], "crop": 0.0},
        "push": {"repository": "anna/site", "dataset": "anna/data", "license": "mit"},
        "stages": dict.fromkeys(("detection", "mask_head", "finetune"), stage),
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "site.yaml"


def test_a_recipe_pushes_what_it_trains(hub: HubServer, recipe: Path, photo: Path, tmp_path: Path) -> None:
    done = hub.cli("train", recipe, home=tmp_path / "one")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    first_push = next(place for place, line in enumerate(lines) if line.startswith("anna/site, branch detection: "))
    assert any(line.startswith("mask_head  epoch") for line in lines[first_push:])  # it went while the run went on
    assert len(hub.sent) == len(set(hub.sent)) == 5  # three stages, two splits
    run = tmp_path / "runs" / "trained"
    fresh = hub.python(SEGMENT, photo, tmp_path, *FOLDERS, home=tmp_path / "other")
    assert fresh.returncode == 0, fresh.stderr[-3000:]
    for revision, folder in FOLDERS.items():
        assert np.array_equal(np.load(tmp_path / f"{revision}.npy"), ids_here(run / folder, photo)), revision
    published = yaml.safe_load(hub.files("anna/site")["recipe.yaml"])
    assert published["data"] == "anna/data"
    assert published["push"] is None
    again = hub.cli("train", recipe, home=tmp_path / "one")
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("all of it is there already") == 5
    assert len(hub.sent) == 5


def test_a_run_without_a_network_is_finished_and_pushed_later(hub: HubServer, recipe: Path, tmp_path: Path) -> None:
    hub.break_at(1, 500, path="/preupload/")
    done = hub.cli("train", recipe, home=tmp_path)
    assert done.returncode == 2
    assert "detection is not pushed yet: anna/site, branch detection: the Hub has a problem" in done.stderr
    assert "not all of it is pushed: the Hub has a problem of its own (500)" in done.stderr
    assert (tmp_path / "runs" / "trained" / "final" / "model.safetensors").is_file()
    assert hub.files("anna/site") == {}
    hub.heal()
    again = hub.cli("train", recipe, home=tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("finished before") == 3
    assert set(hub.repository("anna/site").branches) == set(FOLDERS)


def test_who_may_not_push_hears_of_it_before_training(hub: HubServer, recipe: Path, tmp_path: Path) -> None:
    done = hub.cli("train", recipe, home=tmp_path, token=None)
    assert done.returncode == 2
    assert "there is no token" in done.stderr
    assert not (tmp_path / "runs" / "trained").exists()
