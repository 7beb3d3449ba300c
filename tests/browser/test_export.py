"""A model as ONNX: the graphs equal it or are not written, and run without it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from made import BACKBONES, SPACE, child_environment, tiny_model
from PIL import Image
from transformers import DetrForSegmentation

import hf_detr_panoptic
from hf_detr_panoptic import DetrForPanopticSegmentation
from hf_detr_panoptic.browser import export as exporting
from hf_detr_panoptic.browser import graphs
from hf_detr_panoptic.browser.export import export
from hf_detr_panoptic.browser.runtime import OnnxModel
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.demo.scenes import scene
from hf_detr_panoptic.errors import ModelError

TEACHER = Path(hf_detr_panoptic.__file__).parent / "demo" / "teacher"


@pytest.fixture(scope="module")
def model() -> DetrForPanopticSegmentation:
    """The shipped teacher, its folded weights as 16 bits hold them: graphs of any precision can be made of it."""
    return graphs.reference(DetrForPanopticSegmentation.from_pretrained(TEACHER), "fp16")


@pytest.fixture(scope="module")
def folder(model: DetrForPanopticSegmentation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported once for all, in float32; nobody may write there."""
    return export(model, tmp_path_factory.mktemp("exported") / "site-onnx", precision="fp32", one_graph=True).folder


@pytest.fixture
def already_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other exports of the model take the folder's graphs: writing them takes seconds."""
    import onnx

    files = [folder / "detector.onnx", folder / "masks.onnx"]
    monkeypatch.setattr(graphs, "two_graphs", lambda model: [onnx.load(file) for file in files])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of several sizes, and one that its EXIF turns."""
    there = tmp_path_factory.mktemp("photos")
    for index, size in enumerate([(256, 192), (401, 300), (97, 211), (640, 480)]):
        photo, exif = scene(seed=5, index=index, size=size).photo, Image.Exif()
        exif[0x0112] = 6 if index == 3 else 1
        (photo.rotate(90, expand=True) if index == 3 else photo).save(there / f"{index}.jpg", exif=exif, quality=95)
    return there


def test_the_maps_are_those_of_the_model(model, folder: Path, photos: Path) -> None:
    paths = sorted(photos.iterdir())
    found, expected = OnnxModel.from_folder(folder).segment(paths, threshold=0.5), model.segment(paths, threshold=0.5)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.width, ours.height) == (theirs.width, theirs.height)
        assert len(theirs.segments) > 4
        assert [each.label for each in ours.segments] == [each.label for each in theirs.segments]
        assert (ours.ids != theirs.ids).mean() <= 0.001
    assert [each.height for each in found] == [192, 300, 211, 480]


def test_a_photo_without_any_query_is_void(folder: Path, photos: Path) -> None:
    (found,) = OnnxModel.from_folder(folder).segment(photos / "0.jpg", threshold=0.9999)
    assert not found.segments
    assert not found.ids.any()


def test_one_graph_gives_what_stock_gives(folder: Path, model, tmp_path: Path) -> None:
    import onnxruntime

    stock = DetrForSegmentation(model.config).eval()
    stock.detr.model.backbone = deepcopy(model.detr.model.backbone)  # folded: there are other keys
    stock.load_state_dict(model.state_dict())
    graph = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [each.name for each in graph.get_inputs()] == ["pixel_values"]
    for size in ((2, 3, 96, 131), (1, 3, 33, 31)):
        pixels = torch.randn(size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = stock(pixels)
        found = graph.run(["logits", "pred_boxes", "pred_masks"], {"pixel_values": pixels.numpy()})
        for value, wanted in zip(found, (expected.logits, expected.pred_boxes, expected.pred_masks), strict=True):
            np.testing.assert_allclose(value, wanted, atol=1e-5 * float(wanted.max() - wanted.min()))
    config = json.loads((folder / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": "fp32"}  # else a browser asks for model_quantized.onnx
    assert DetrForSegmentation.config_class.from_pretrained(folder).id2label == model.config.id2label


def test_the_record_and_the_page_say_what_was_written(folder: Path, model) -> None:
    record = json.loads((folder / "export.json").read_text())
    for name, digest in record["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert [each["name"] for each in record["classes"]] == list(model.label_space.names)
    assert [each["column"] for each in record["classes"]] == list(range(12))
    assert record["sizes"] == [[256, 192], [192, 256], [161, 145]]
    assert 0 < record["figures"]["two_graphs"]["masks"] < 1e-5
    page = (folder / "README.md").read_text()
    assert f"{record['figures']['one_graph']['masks']:.1e}" in page
    assert page.count("```") % 2 == 0
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for private in (str(Path.home()), str(TEACHER.parents[1]), "site-packages", str(folder)):
        assert private.encode() not in written


@pytest.mark.parametrize(("precision", "share", "step"), [("fp16", 0.55, 0.0), ("int8", 0.31, 0.5 / 127)])
def test_weights_in_fewer_bits(folder: Path, precision: str, share: float, step: float) -> None:
    import onnx
    from onnx import numpy_helper

    plain = onnx.load(folder / "detector.onnx")
    weights = {each.name: numpy_helper.to_array(each) for each in plain.graph.initializer}
    small = graphs.stored(deepcopy(plain), precision)
    assert small.ByteSize() < share * plain.ByteSize()
    now = {each.name: numpy_helper.to_array(each) for each in small.graph.initializer}
    assert sum(name not in now for name in weights) > 50
    for name, weight in weights.items():
        if name in now:
            assert np.array_equal(now[name], weight)
        elif precision == "fp16":
            assert np.array_equal(now[f"{name}.fp16"].astype(np.float32), weight)
        else:
            again = now[f"{name}.int8"].astype(np.float32) * now[f"{name}.scale"]
            assert np.abs(again - weight).max() <= step * np.abs(weight).max() * 1.001
            assert now[f"{name}.scale"].size in (weight.shape[0], weight.shape[-1])
    onnx.checker.check_model(small)


def test_stored_in_16_bits_it_computes_the_same(folder: Path, already_written, model, tmp_path: Path) -> None:
    small = export(model, tmp_path / "small")
    pixels = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    found, expected = (OnnxModel.from_folder(each).detect(pixels) for each in (small.folder, folder))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert small.files["detector.onnx"] < 0.55 * (folder / "detector.onnx").stat().st_size
    assert "16 bits" in (small.folder / "README.md").read_text()
    assert not (small.folder / "onnx").exists()


def test_what_differs_is_not_written(already_written, model, tmp_path: Path) -> None:
    other = deepcopy(model)
    with torch.no_grad():
        other.mask_head.output_conv.bias.add_(0.05)
    with pytest.raises(ModelError, match="masks differ by"):
        export(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_torch_would_never_end_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"image_size": 64, "embed_dim": 16, "depths": [1] * 4, "num_heads": [1, 2, 2, 4], "window_size": 4}
    swin = {"model_type": "swin", **sizes, "out_features": [f"stage{number}" for number in range(1, 5)]}
    monkeypatch.setitem(BACKBONES, "swin", swin)
    monkeypatch.setattr(graphs, "two_graphs", lambda model: pytest.fail("it was tried"))
    with pytest.raises(ModelError, match=r"backbone swin: .*windows"):
        export(tiny_model(SPACE, backbone="swin"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_eight_bits_are_measured(already_written, model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_detr_panoptic.dataset.coco_panoptic import read_split
    from hf_detr_panoptic.dataset.writer import DatasetWriter

    made = [scene(seed=7, index=index, size=(128, 96)) for index in range(4)]
    with DatasetWriter(tmp_path / "data", made[0].truth.space) as writer:
        for index, each in enumerate(made):
            writer.add("val", f"{index}.png", each.photo, each.truth)
    with pytest.raises(ModelError, match="photos with truth"):
        export(model, tmp_path / "out", precision="int8")
    split = read_split(tmp_path / "data", "val")
    monkeypatch.setattr(exporting, "MOST_PQ_LOST", 100)
    done = export(model, tmp_path / "out", precision="int8", data=split)
    assert done.files["detector.onnx"] < 1_600_000
    pq = done.figures["pq"]
    assert pq["photos"] == 4
    assert f"{pq['exported']:.2f}" in (done.folder / "README.md").read_text()
    monkeypatch.setattr(exporting, "MOST_PQ_LOST", pq["model"] - pq["exported"] - 0.01)
    with pytest.raises(ModelError, match="of the PQ"):
        export(model, tmp_path / "worse", precision="int8", data=split)
    assert not (tmp_path / "worse").exists()


def test_files_that_are_not_those_that_were_verified(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no exported model"):
        OnnxModel.from_folder(TEACHER)
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    content = bytearray((damaged / "masks.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "masks.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"masks\.onnx: is not the file that was verified"):
        OnnxModel.from_folder(damaged)
    record = json.loads((damaged / "export.json").read_text())
    (damaged / "masks.onnx").write_bytes(b"no graph")
    record["files"]["masks.onnx"] = hashlib.sha256(b"no graph").hexdigest()
    (damaged / "export.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="no graph that onnxruntime can run"):
        OnnxModel.from_folder(damaged)
    (damaged / "masks.onnx").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        OnnxModel.from_folder(damaged)
    (damaged / "export.json").write_text("[]")
    with pytest.raises(ModelError, match="format 1"):
        OnnxModel.from_folder(damaged)


def test_where_the_extra_is_not_installed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"hf-detr-panoptic\[export\]"):
        OnnxModel.from_folder(folder)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs onnx\. .*hf-detr-panoptic\[export\]"):
        export(TEACHER, tmp_path / "out")


def test_a_folder_of_something_else_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["export", str(TEACHER), "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_predict_in_onnxruntime(
    folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {"torch": TEACHER, "onnx": folder}
    for runtime, model in runs.items():
        words = ["predict", str(model), str(photos), "--out", str(tmp_path / runtime), "--runtime", runtime]
        assert main(words) == 0
    lists = [json.loads((tmp_path / runtime / "predictions.json").read_text()) for runtime in runs]
    assert lists[0]["categories"] == lists[1]["categories"]
    assert len(lists[1]["annotations"]) == 4
    assert len(list((tmp_path / "onnx" / "overlays").iterdir())) == 4
    capsys.readouterr()
    words = ["predict", str(folder), str(photos), "--out", str(tmp_path / "x"), "--runtime", "onnx"]
    assert main([*words, "--precision", "bf16"]) == 2
    assert "--precision" in capsys.readouterr().err


def test_the_python_of_the_docs_runs_without_torch(
    folder: Path, photos: Path, model, tmp_path: Path, root: Path
) -> None:
    page = (root / "docs" / "without-python.md").read_text(encoding="utf-8")
    (block,) = [part.partition("```")[0] for part in page.split("```python\n")[1:]]
    assert exporting.python_source() in block
    assert exporting.python_source() in (folder / "README.md").read_text(encoding="utf-8")
    shutil.copytree(folder, tmp_path / "site-onnx")
    wanted = model.segment(sorted(photos.iterdir()), min_area=0, duplicate=1.0)
    for path, expected in zip(sorted(photos.iterdir()), wanted, strict=True):
        shutil.copy(path, tmp_path / "photo.jpg")
        script = f"import sys\nsys.modules['torch'] = None\n{block}\nnp.save('ids.npy', ids)\n"
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, cwd=tmp_path, env=child_environment(), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        ids, areas = np.load(tmp_path / "ids.npy"), [int(area) for area in expected.areas().values()]
        assert ids.shape == (expected.height, expected.width)
        listed = [line.split() for line in done.stdout.splitlines()]
        assert sorted(int(words[-2]) for words in listed) == pytest.approx(sorted(areas), abs=0.002 * ids.size)
        pairs = np.unique(np.stack([ids.ravel(), expected.ids.ravel()]), axis=1, return_counts=True)
        assert np.sort(pairs[1])[::-1][: len(areas) + 1].sum() >= 0.998 * ids.size  # number by number one segment
