"""The builder as a class here, and as a script under datasets 3.6 in an environment without torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import datasets
import pytest
from PIL import Image

from hf_detr_panoptic import LabelSpace, PanopticMap
from hf_detr_panoptic.dataset import builder as script
from hf_detr_panoptic.dataset.builder import PanopticBuilder
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.dataset.rows import to_panoptic_map


def prepared(folder: Path, cache: Path, num_proc: int | None = None) -> datasets.DatasetDict:
    builder = PanopticBuilder(data_dir=str(folder), cache_dir=str(cache))
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset()


def test_as_a_class(dataset: Path, tmp_path: Path, space: LabelSpace, small_map: PanopticMap) -> None:
    found = prepared(dataset, tmp_path / "cache")
    assert {name: rows.num_rows for name, rows in found.items()} == {"train": 3, "validation": 2}
    for rows, split in ((found["train"], "train"), (found["validation"], "val")):
        for row, record in zip(rows, read_split(dataset, split), strict=True):
            assert (row["image_id"], row["file_name"]) == (record.image_id, record.file_name)
            assert to_panoptic_map(row, space) == small_map
            assert Path(row["image"].filename) == record.photo


def test_two_processes_and_streaming_give_the_same_rows(dataset: Path, tmp_path: Path) -> None:
    alone = prepared(dataset, tmp_path / "one")
    shared = prepared(dataset, tmp_path / "two", num_proc=2)
    stream = PanopticBuilder(data_dir=str(dataset), cache_dir=str(tmp_path / "three")).as_streaming_dataset("train")
    plain = datasets.Image(decode=False)
    assert list(stream.cast_column("image", plain)) == list(alone["train"].cast_column("image", plain))
    assert stream.num_shards == 3  # so that the workers of a loader can share the photos out
    for split in alone:
        one, two = (found[split].cast_column("image", plain) for found in (alone, shared))
        assert list(one) == list(two)
        assert one.features == two.features


def test_edited_annotations_are_read_anew(dataset: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert prepared(dataset, cache)["train"][0]["segments"][1]["score"] == 0.9
    path = dataset / "annotations" / "panoptic_train.json"
    path.write_text(path.read_text().replace('"score": 0.9', '"score": 0.1'))
    assert prepared(dataset, cache)["train"][0]["segments"][1]["score"] == 0.1


def test_as_parquet_it_holds_the_photos_bytes(dataset: Path, tmp_path: Path) -> None:
    builder = PanopticBuilder(data_dir=str(dataset), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare(str(tmp_path / "out"), file_format="parquet")
    files = {name: str(next((tmp_path / "out").glob(f"*-{name}.parquet"))) for name in ("train", "validation")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache2"))
    row = loaded["train"].cast_column("image", datasets.Image(decode=False))[1]
    assert row["image"]["bytes"] == read_split(dataset)[1].photo.read_bytes()


def test_a_folder_that_is_wrong_says_so(dataset: Path, tmp_path: Path) -> None:
    cases = {
        "photo": (lambda root: (root / "images" / "p1.jpg").unlink(), "p1.jpg is missing"),
        "png": (lambda root: (root / "annotations/panoptic_train/p1.png").unlink(), "p1.png is missing"),
        "unfinished": (lambda root: (root / "annotations/.incomplete").touch(), "not written to its end"),
        "category": (lambda root: edit(root, '"category_id": 3', '"category_id": 33'), "category is not in the list"),
        "leak": (lambda root: edit(root, '"file_name": "p1.jpg"', '"file_name": "../../secret.jpg"'), "leads out"),
        "categories": (lambda root: edit(root, '"name": "pipe"', '"name": "tube"'), "categories are not those of"),
        "nothing": (lambda root: shutil.rmtree(root / "annotations"), "no panoptic_"),
    }
    for name, (spoil, message) in cases.items():
        root = tmp_path / "cases" / name
        shutil.copytree(dataset, root)
        (tmp_path / "cases" / "secret.jpg").write_bytes(b"secret")
        spoil(root)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            prepared(root, tmp_path / "cache" / name)


def edit(root: Path, old: str, new: str) -> None:
    path = root / "annotations" / "panoptic_train.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


SCRIPT = """
import hashlib, io, json, sys
import datasets
from PIL import Image
assert "torch" not in sys.modules and "hf_detr_panoptic" not in sys.modules
script, folder, num_proc = sys.argv[1:]
options = {"data_dir": folder, "trust_remote_code": True}
found = datasets.load_dataset(script, num_proc=int(num_proc) or None, **options)
stream = datasets.load_dataset(script, streaming=True, **options)
out = {"version": datasets.__version__}
for name, rows in found.items():
    streamed = list(stream[name])
    out[name] = []
    for row, other in zip(rows, streamed, strict=True):
        for r in (row, other):
            r["image"] = hashlib.sha256(r["image"].tobytes()).hexdigest()
            r["panoptic"] = hashlib.sha256(Image.open(io.BytesIO(r["panoptic"])).tobytes()).hexdigest()
        assert row == other, (row, other)
        out[name].append(row)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with datasets 3.6, Pillow and nothing of ours."""
    home = tmp_path_factory.mktemp("datasets36") / "venv"
    venv.create(home, with_pip=True)
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--retries", "1", "--disable-pip-version-check"]
    done = subprocess.run([*command, "datasets==3.6.*", "pillow", "numpy"], capture_output=True, text=True)
    if done.returncode:
        unreachable = ("No matching distribution found for datasets", "Failed to establish a new connection")
        if any(sign in done.stderr for sign in unreachable):
            pytest.skip("no package registry within reach to install datasets 3.6 from")
        raise AssertionError(done.stderr)
    assert subprocess.run([str(python), "-c", "import torch"], capture_output=True).returncode != 0
    return python


@pytest.mark.slow
@pytest.mark.parametrize("num_proc", [0, 2])
def test_as_a_script_under_datasets_3_6_without_torch(
    old_python: Path, dataset: Path, tmp_path: Path, num_proc: int
) -> None:
    copy = tmp_path / "alone" / "site.py"
    copy.parent.mkdir()
    shutil.copyfile(script.__file__, copy)
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [str(old_python), "-I", "-c", SCRIPT, str(copy), str(dataset), str(num_proc)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs.pop("version").startswith("3.6.")
    ours = prepared(dataset, tmp_path / "cache")
    assert theirs.keys() == ours.keys()
    for split, rows in ours.items():
        assert len(theirs[split]) == len(rows) > 0
        for row, other in zip(rows, theirs[split], strict=True):
            for key in ("image_id", "file_name", "segments"):
                assert row[key] == other[key]
            assert hash_of(row["image"].tobytes()) == other["image"]
            record = next(r for r in read_split(dataset, split) if r.image_id == row["image_id"])
            assert hash_of(Image.open(record.png).tobytes()) == other["panoptic"]


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
