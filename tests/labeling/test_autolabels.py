from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.errors import DatasetError
from hf_detr_panoptic.labeling.autolabels import AutoLabels

SPACE = LabelSpace([Category("Straße", False, source="auto"), Category("crane", True, source="auto")])
IDS = np.array([[0, 0, 70000, 70000], [3, 3, 3, 70000]], dtype=np.int32)
MAP = PanopticMap(IDS, [Segment(3, 1, 0.75, "model"), Segment(70000, 0, 0.5000001, "model")], SPACE)


@pytest.fixture
def answers(tmp_path: Path) -> AutoLabels:
    made = AutoLabels.open(tmp_path, SPACE, {"fingerprint": "abc", "threads": 2})
    made.write("d1", MAP)
    return made


def test_what_is_written_is_read(answers: AutoLabels) -> None:
    read = answers.read("d1")
    assert np.array_equal(read.ids, IDS)
    assert [(s.id, SPACE[s.label].name, s.score, s.source) for s in read.segments] == [
        (3, "crane", 0.75, "auto"),
        (70000, "Straße", 0.5000001, "auto"),
    ]


def test_any_program_can_look_at_it(answers: AutoLabels) -> None:
    with Image.open(answers.path("d1")) as image:
        assert image.mode == "RGB"
        assert np.asarray(image)[0, 2].tolist() == [112, 17, 1]  # 70000 = 112 + 17 · 256 + 1 · 256²
        assert json.loads(image.text["hf_detr_panoptic"])["segments"][0] == {"id": 3, "name": "crane", "score": 0.75}


def test_a_map_of_nothing(answers: AutoLabels) -> None:
    answers.write("empty", PanopticMap(np.zeros((2, 3), dtype=np.int32), [], SPACE))
    assert answers.has("empty")
    assert answers.read("empty").void_area == 6


def test_every_torn_file_is_noticed(answers: AutoLabels) -> None:
    """Cut off anywhere, or one byte wrong anywhere."""
    path = answers.path("d1")
    whole = path.read_bytes()
    assert answers.has("d1")
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert not answers.has("d1"), length
        path.write_bytes(whole[:length] + bytes([whole[length] ^ 1]) + whole[length + 1 :])
        assert not answers.has("d1"), length
    assert not answers.has("never written")


def test_a_png_without_names_is_no_answer(answers: AutoLabels) -> None:
    Image.new("RGB", (4, 2)).save(answers.path("plain"))
    assert not answers.has("plain")


def test_a_damaged_answer_is_one_message(answers: AutoLabels) -> None:
    answers.path("d1").write_bytes(b"\x89PNG")
    with pytest.raises(DatasetError, match=r"d1\.png: the auto-label cannot be read .* Delete the file"):
        answers.read("d1")


def test_the_folder_tells_settings_apart(tmp_path: Path) -> None:
    opened = [
        AutoLabels.open(tmp_path, space, settings).folder
        for space, settings in (
            (SPACE, {"fingerprint": "abc"}),
            (SPACE, {"fingerprint": "abd"}),
            (SPACE, {"fingerprint": "abc", "threads": 1}),
            (LabelSpace([Category("crane", True)]), {"fingerprint": "abc"}),
        )
    ]
    assert len(set(opened)) == 4
    assert AutoLabels.open(tmp_path, SPACE, {"fingerprint": "abc"}).folder == opened[0]


def test_read_without_a_model(answers: AutoLabels, tmp_path: Path) -> None:
    found = AutoLabels.in_folder(tmp_path)
    assert found.folder == answers.folder
    assert found.space == SPACE
    assert found.settings == {"format": 1, "fingerprint": "abc", "threads": 2}
    assert np.array_equal(found.read("d1").ids, IDS)
    with pytest.raises(DatasetError, match="no auto-labels are here"):
        AutoLabels.in_folder(tmp_path / "nowhere")
    AutoLabels.open(tmp_path, SPACE, {"fingerprint": "other"})
    with pytest.raises(DatasetError, match=r"auto-labels of 2 runs lie here .* Name the folder of one"):
        AutoLabels.in_folder(tmp_path)


def test_a_failed_write_leaves_nothing(answers: AutoLabels, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        answers.write("d2", MAP)
    monkeypatch.undo()
    assert not answers.has("d2")
    assert sorted(path.name for path in answers.folder.iterdir()) == ["d1.png", "labeler.json"]


def test_the_sweep_takes_what_killed_processes_left(answers: AutoLabels) -> None:
    (answers.folder / ".d1.png.77-abcd.part").write_bytes(b"half")
    answers.sweep()
    assert sorted(path.name for path in answers.folder.iterdir()) == ["d1.png", "labeler.json"]


def test_the_checksum_is_the_one_png_wants(answers: AutoLabels) -> None:
    content = answers.path("d1").read_bytes()
    place = content.index(b"tEXt")
    length = int.from_bytes(content[place - 4 : place])
    assert int.from_bytes(content[place + 4 + length : place + 8 + length]) == zlib.crc32(
        content[place : place + 4 + length]
    )
