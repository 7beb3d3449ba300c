"""handler.py: its rules against the package's own and by hand, what may be sent to it, and that it stands alone."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made import HOSTILE as SPACE
from made import noise, speaking_model
from PIL import Image

from hf_detr_panoptic.hub.handler import EndpointHandler, panoptic, read_photo
from hf_detr_panoptic.hub.model_card import handler_source
from hf_detr_panoptic.images import open_image
from hf_detr_panoptic.model.postprocess import choose_queries, postprocess
from hf_detr_panoptic.settings import Postprocess


class Inputs(dict):  # type: ignore[type-arg]
    def to(self, device: Any) -> Inputs:
        return self


def answering(logits: torch.Tensor, masks: torch.Tensor, settings: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """A model that says this whatever it is shown, and a processor."""
    config = SimpleNamespace(id2label=dict(enumerate(SPACE.names)), label_ids_to_fuse=sorted(SPACE.stuff_labels))
    if settings is not None:
        config.hf_detr_panoptic = settings

    class Model(SimpleNamespace):
        def __call__(self) -> Any:
            return SimpleNamespace(logits=logits[None], pred_masks=masks[None])

    return Model(config=config, device=torch.device("cpu")), lambda images, return_tensors: Inputs()


def test_by_hand() -> None:
    # Two queries of sky (2), a pipe (0), a pipe below .85, a query that found nothing (4).
    probabilities = torch.tensor(
        [[0, 0, 0.9, 0, 0.1], [0.96, 0, 0, 0, 0.04], [0, 0, 0.95, 0, 0.05], [0.8, 0, 0.2, 0, 0], [0, 0, 0, 0, 1]]
    )
    masks = torch.full((5, 2, 4), -9.0)
    masks[0, 0, :2], masks[2, 0, 2:] = 2.0, 1.0  # sky left and right
    masks[1, 1, :2] = 3.0  # the pipe
    masks[3], masks[4] = 99.0, 99.0
    model, processor = answering((probabilities + 1e-9).log(), masks, settings={"min_area": 0})
    ids, segments = panoptic(Image.new("RGB", (4, 2)), model, processor)
    assert ids.tolist() == [[1, 1, 1, 1], [2, 2, 0, 0]]
    assert [(segment["id"], segment["label"]) for segment in segments] == [(1, SPACE.names[2]), (2, "pipe")]
    assert [segment["score"] for segment in segments] == pytest.approx([0.925, 0.96], abs=1e-6)
    ids, segments = panoptic(Image.new("RGB", (4, 2)), model, processor, threshold=0.7)
    assert ids.tolist() == [[1] * 4] * 2  # the fourth query, whose mask wins everywhere
    assert [(segment["label"], round(segment["score"], 6)) for segment in segments] == [("pipe", 0.8)]


@pytest.mark.parametrize("seed", range(12))
def test_the_packages_own_rules(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(14, len(SPACE) + 1, generator=generator)
    masks = 3 * torch.randn(14, 7, 9, generator=generator) - 1
    settings = Postprocess(
        threshold=(0.3, 0.5, 0.85)[seed % 3],
        mask_threshold=(0.5, 0.7)[seed % 2],
        min_area=(0, 4, 150)[seed // 2 % 3],
        fill=("void", "argmax")[seed // 3 % 2],
        duplicate=(1.0, 0.2)[seed // 4 % 2],
    )
    (kept,) = choose_queries(logits[None], SPACE, settings.threshold)
    expected = postprocess(kept, masks[kept.queries], SPACE, (61, 83), settings)
    ids, segments = panoptic(Image.new("RGB", (83, 61)), *answering(logits, masks, settings.to_dict()))
    assert len(expected.segments) > 1
    # The order of adding differs: where two masks tie to the last bits a pixel may fall to the other.
    assert (ids.numpy() != expected.ids).mean() < 1e-3
    assert [segment["label"] for segment in segments] == [SPACE[s.label].name for s in expected.segments]
    assert [segment["score"] for segment in segments] == pytest.approx([s.score for s in expected.segments], abs=1e-3)


def test_nothing_found_and_a_foreign_configuration() -> None:
    logits = torch.zeros(3, len(SPACE) + 1)
    model, processor = answering(logits, torch.ones(3, 2, 2))
    ids, segments = panoptic(Image.new("RGB", (5, 4)), model, processor)  # .85 where nothing is remembered
    assert ids.tolist() == [[0] * 5] * 4
    assert segments == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endpoint") / "model"
    speaking_model().save_pretrained(folder)
    (folder / "handler.py").write_text(handler_source(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def handler(folder: Path) -> EndpointHandler:
    return EndpointHandler(str(folder))


def as_png(photo: Image.Image) -> bytes:
    stream = io.BytesIO()
    photo.save(stream, "PNG")
    return stream.getvalue()


def test_a_photo_in_every_shape_that_comes(handler: EndpointHandler) -> None:
    photo = noise()
    sent = as_png(photo)
    encoded = base64.b64encode(sent).decode()
    first, *others = (
        handler({"inputs": inputs})
        for inputs in (photo, sent, encoded, f"data:image/png;base64,{encoded}", bytearray(sent))
    )
    assert all(other == first for other in others)
    (map,) = speaking_model().segment(photo)
    assert [segment["label"] for segment in first] == [SPACE[s.label].name for s in map.segments]
    for answer, segment in zip(first, map.segments, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(answer["mask"]))) as mask:
            assert mask.mode == "L"
            assert mask.size == photo.size
            pixels = np.asarray(mask)
        assert set(np.unique(pixels).tolist()) <= {0, 255}
        assert np.array_equal(pixels == 255, map.mask(segment.id))
    stuff = [segment["label"] for segment in first if segment["label"] in SPACE.names[2:]]
    assert len(stuff) == len(set(stuff)) > 0


def test_a_threshold_of_the_callers(handler: EndpointHandler) -> None:
    every = handler({"inputs": noise(), "parameters": {"threshold": 0.0}})
    sure = handler({"inputs": noise(), "parameters": {"threshold": 0.9}})
    assert len(every) > len(sure)
    assert all(segment["score"] > 0.9 for segment in sure)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "CMYK", "1"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_photos_are_read_as_the_package_reads_them(mode: str, orientation: int) -> None:
    photo = noise().convert("RGBA" if mode in ("RGBA", "LA") else "RGB")
    if mode in ("RGBA", "LA"):
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.convert(mode).save(stream, "TIFF" if mode == "CMYK" else "PNG", exif=exif)
    read = read_photo(stream.getvalue())
    expected = open_image(stream.getvalue())
    assert read.size == expected.size
    assert np.abs(np.asarray(read).astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize(
    ("suffix", "values", "expected"),
    [
        ("PNG", np.array([[0, 257], [25700, 65535]], dtype=np.uint16), [[0, 1], [100, 255]]),
        ("TIFF", np.array([[0, 257], [25700, 65535]], dtype=">u2"), [[0, 1], [100, 255]]),
        ("TIFF", np.array([[0, 257], [25700, 65535]], dtype=np.int32), [[0, 1], [100, 255]]),
        ("TIFF", np.array([[-1000, 0], [1000, 4100]], dtype=np.int32), [[0, 50], [100, 255]]),
        ("TIFF", np.array([[0, 0.2], [0.6, 1]], dtype=np.float32), [[0, 51], [153, 255]]),
        ("TIFF", np.array([[0, np.nan], [255, 7]], dtype=np.float32), [[0, 0], [255, 7]]),
        ("TIFF", np.array([[7000, 7000]], dtype=np.float32), [[0, 0]]),
    ],
)
def test_more_than_eight_bits(suffix: str, values: Any, expected: list[list[int]]) -> None:
    """Scaled, not cut off at 255, as the package does: by hand."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, suffix)
    for read in (read_photo(stream.getvalue()), open_image(stream.getvalue())):
        assert np.asarray(read)[..., 0].tolist() == expected
        assert read.mode == "RGB"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "holds no photo"),
        ({"inputs": None}, "holds no photo"),
        ({"inputs": "https://example.org/photo.jpg"}, "not its address"),
        ({"inputs": "/etc/passwd"}, "cannot be read|not its address"),
        ({"inputs": "file:///etc/passwd"}, "not its address"),
        ({"inputs": b"no photo"}, "cannot be read"),
        ({"inputs": ""}, "cannot be read"),
        ({"inputs": as_png(noise())[:300]}, "cannot be read"),
        ({"inputs": noise(), "parameters": {"threshold": 2}}, "threshold is 2"),
        ({"inputs": noise(), "parameters": {"threshold": "high"}}, "threshold is 'high'"),
        ({"inputs": noise(), "parameters": {"treshold": 0.5}}, "not treshold"),
        ({"inputs": noise(), "parameters": [1]}, r"parameters is \[1\]: send it as"),
        (None, 'send {"inputs": photo}'),
        ([noise()], 'send {"inputs": photo}'),
    ],
)
def test_what_cannot_be_answered(handler: EndpointHandler, data: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        handler(data)


@pytest.mark.slow
def test_it_stands_alone(folder: Path, tmp_path: Path) -> None:
    noise().save(tmp_path / "photo.png")
    code = (
        "import sys; sys.modules['hf_detr_panoptic'] = None\n"  # importing it now raises
        "sys.path.insert(0, sys.argv[1])\n"
        "from handler import EndpointHandler\n"
        "found = EndpointHandler(sys.argv[1])({'inputs': open(sys.argv[2], 'rb').read()})\n"
        "print([segment['label'] for segment in found])"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "photo.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (map,) = speaking_model().segment(noise())
    assert done.stdout.strip() == str([SPACE[segment.label].name for segment in map.segments])
