from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import SHAPES, shapes, tiny_model
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.dataset.copies import Fingerprint
from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.labeling.autolabels import AutoLabels
from hf_detr_panoptic.labeling.inputs import Photo, survey
from hf_detr_panoptic.labeling.labeler import (
    DetrLabeler,
    _compare_thresholds,
    label,
    labeler_settings,
    plan_batches,
)
from hf_detr_panoptic.settings import Prepare

pytestmark = pytest.mark.bits

SPACE = LabelSpace([Category("any", True, source="auto")])


class Sizes:
    """What a model would make of photos: 20 pixels high."""

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return 20, round(width * 20 / height)


class Recorder:
    """A labeler that notes its batches, and puts their size into the score: so that batches show in the answers."""

    label_space = SPACE
    fingerprint = "recorder"

    def __init__(self, dies_at: int | None = None) -> None:
        self.batches: list[list[tuple[int, int]]] = []
        self.dies_at = dies_at
        self.threads: set[int] = set()

    def segment(self, images, threshold):
        if len(self.batches) == self.dies_at:
            raise KeyboardInterrupt
        self.batches.append([image.size for image in images])
        self.threads.add(threading.get_ident())
        return [
            PanopticMap(
                np.full((image.height, image.width), 1 + image.getpixel((0, 0))[0], dtype=np.int32),
                [Segment(1 + image.getpixel((0, 0))[0], 0, len(images) / 100, "model")],
                SPACE,
            )
            for image in images
        ]


class Resizing(Recorder):
    preprocess = Sizes()


def photos_in(folder: Path, sizes: list[tuple[int, int]]) -> list[Photo]:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    names = [f"{place:03}.png" for place in range(len(sizes))]
    for name, (width, height) in zip(names, sizes, strict=True):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / name)
    found, problems = survey(folder, names)
    assert not problems
    return found


def answers_in(folder: Path, labeler: Recorder) -> AutoLabels:
    return AutoLabels.open(folder, SPACE, labeler_settings(labeler, batch_size=2))


def test_batches_are_of_one_size_and_every_photo_is_in_one(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", [(30, 20), (60, 40), (20, 30), (30, 20), (45, 30)])
    by_own_size = [[photo.name for photo in batch] for batch in plan_batches(Recorder(), photos, 2)]
    assert by_own_size == [["000.png", "003.png"], ["001.png"], ["002.png"], ["004.png"]]
    by_processed_size = [[photo.name for photo in batch] for batch in plan_batches(Resizing(), photos, 3)]
    assert by_processed_size == [["000.png", "001.png", "003.png"], ["004.png"], ["002.png"]]


def photo(name: str, size: tuple[int, int], digest: str) -> Photo:
    return Photo(name, size, Fingerprint(digest, None))


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from([(20, 30), (30, 20), (40, 60)])), max_size=40),
    st.integers(1, 7),
    st.randoms(),
)
def test_any_plan(entries, batch_size, random) -> None:
    photos = [photo(f"{place:02}", size, f"{content} {size}") for place, (content, size) in enumerate(entries)]
    shuffled = list(photos)
    random.shuffle(shuffled)
    batches = plan_batches(Resizing(), photos, batch_size)
    assert (
        plan_batches(Resizing(), shuffled, batch_size) == batches
    )  # the order in which they are given does not matter
    labelled = [photo.digest for batch in batches for photo in batch]
    assert sorted(labelled) == sorted({photo.digest for photo in photos})  # each content once
    assert all(len(batch) <= batch_size for batch in batches)
    for batch in batches:
        assert len({Sizes().output_size(*photo.size) for photo in batch}) == 1
    full = Counter(Sizes().output_size(*batch[0].size) for batch in batches if len(batch) < batch_size)
    assert max(full.values(), default=0) <= 1  # only the last batch of a size is not full


def test_everything_is_labelled_once(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", [(30, 20)] * 5 + [(20, 20)])
    labeler = Recorder()
    answers = answers_in(tmp_path / "auto", labeler)
    done = label(labeler, tmp_path / "photos", photos, answers, batch_size=2)
    assert (done.made, done.there, done.problems) == (6, 0, [])
    assert sorted(map(len, labeler.batches)) == [1, 1, 2, 2]
    for one in photos:
        red = np.asarray(Image.open(tmp_path / "photos" / one.name))[0, 0, 0]
        assert answers.read(one.digest).ids[0, 0] == 1 + red
    again = Recorder()
    done = label(again, tmp_path / "photos", photos, answers, batch_size=2)
    assert (done.made, done.there, again.batches) == (0, 6, [])


@pytest.mark.parametrize("dies_at", range(4))
def test_an_interrupted_run_continues_to_the_same_bytes(tmp_path: Path, dies_at: int) -> None:
    photos = photos_in(tmp_path / "photos", [(30, 20)] * 7)
    whole = answers_in(tmp_path / "whole", Recorder())
    label(Recorder(), tmp_path / "photos", photos, whole, batch_size=2)
    broken = answers_in(tmp_path / "broken", Recorder())
    with pytest.raises(KeyboardInterrupt):
        label(Recorder(dies_at), tmp_path / "photos", photos, broken, batch_size=2)
    rest = Recorder()
    label(rest, tmp_path / "photos", photos, broken, batch_size=2)
    assert len(rest.batches) <= 4 - max(0, dies_at - 2)  # what was handed to the writers may still be written
    for one in photos:
        assert broken.path(one.digest).read_bytes() == whole.path(one.digest).read_bytes()


def test_a_batch_of_which_one_answer_is_lost_runs_whole(tmp_path: Path) -> None:
    """Its photo meets the same neighbours; the answers that are there stay untouched."""
    photos = photos_in(tmp_path / "photos", [(30, 20)] * 4)
    answers = answers_in(tmp_path / "auto", Recorder())
    label(Recorder(), tmp_path / "photos", photos, answers, batch_size=2)
    before = answers.path(photos[2].digest).read_bytes()
    torn = answers.path(photos[2].digest)
    torn.write_bytes(before[:-5])
    others = [answers.path(one.digest).stat().st_mtime_ns for one in photos if one is not photos[2]]
    labeler = Recorder()
    done = label(labeler, tmp_path / "photos", photos, answers, batch_size=2)
    assert (done.made, done.there) == (1, 3)
    assert labeler.batches == [[(30, 20), (30, 20)]]
    assert torn.read_bytes() == before
    assert [answers.path(one.digest).stat().st_mtime_ns for one in photos if one is not photos[2]] == others


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_are_disjoint_and_together_the_whole(tmp_path: Path, count: int) -> None:
    photos = photos_in(tmp_path / "photos", [(30, 20)] * 7 + [(20, 20)] * 3)
    whole = answers_in(tmp_path / "whole", Recorder())
    label(Recorder(), tmp_path / "photos", photos, whole, batch_size=2)
    shared = answers_in(tmp_path / "shared", Recorder())
    made = [
        label(Recorder(), tmp_path / "photos", photos, shared, batch_size=2, share=(number, count)).made
        for number in range(count)
    ]
    assert sum(made) == 10
    assert max(made) - min(made) <= 2
    for one in photos:
        assert shared.path(one.digest).read_bytes() == whole.path(one.digest).read_bytes()


def test_a_photo_that_vanishes_or_changes_meanwhile_is_a_problem(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", [(30, 20)] * 4)
    (tmp_path / "photos/001.png").unlink()
    Image.new("RGB", (30, 20)).save(tmp_path / "photos/002.png")
    labeler = Recorder()
    answers = answers_in(tmp_path / "auto", labeler)
    done = label(labeler, tmp_path / "photos", photos, answers, batch_size=2)
    assert [(problem.photo, problem.what) for problem in done.problems] == [
        ("001.png", "cannot be read (No such file or directory)"),
        ("002.png", "the photo was changed while it was being labelled"),
    ]
    assert done.made == 2
    assert [answers.has(one.digest) for one in photos] == [True, False, False, True]


def test_a_labeler_that_errs_is_told_so(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", [(30, 20)] * 2)
    answers = answers_in(tmp_path / "auto", Recorder())

    class Short(Recorder):
        def segment(self, images, threshold):
            return super().segment(images, threshold)[1:]

    class Small(Recorder):
        def segment(self, images, threshold):
            return super().segment([image.resize((10, 10)) for image in images], threshold)

    class Full(Recorder):
        def segment(self, images, threshold):
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    for labeler, message in (
        (Short(), "returned 1 maps for 2 photos"),
        (Small(), r"000\.png: the labeler's map is 10×10, the photo 30×20"),
        (Full(), r"a batch of 2 does not fit into memory\. Use a smaller --batch-size"),
    ):
        with pytest.raises(ModelError, match=message):
            label(labeler, tmp_path / "photos", photos, answers, batch_size=2)


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photos_in(tmp_path / "photos", [(30, 20)] * 40)
    answers = answers_in(tmp_path / "auto", Recorder())
    labeler = Recorder()

    def full(self, digest, map, features):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AutoLabels, "write", full)
    with pytest.raises(OSError, match="No space left"):
        label(labeler, tmp_path / "photos", photos, answers, batch_size=2)
    assert len(labeler.batches) <= 4  # not a night of work that nobody can keep


def test_few_photos_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory: what is decoded ahead does not depend on how many photos there are."""
    import hf_detr_panoptic.labeling.labeler as module

    photos = photos_in(tmp_path / "photos", [(30, 20)] * 60)
    opened = []
    original = module.open_image
    monkeypatch.setattr(module, "open_image", lambda content: opened.append(1) or original(content))
    seen = []

    class Counting(Recorder):
        def segment(self, images, threshold):
            seen.append(len(opened) - 2 * len(self.batches))
            return super().segment(images, threshold)

    label(Counting(), tmp_path / "photos", photos, answers_in(tmp_path / "auto", Recorder()), batch_size=2)
    assert len(opened) == 60
    assert max(seen) <= 8


def test_settings_name_all_that_decides_an_answer() -> None:
    import torch

    labeler = Recorder()
    assert labeler_settings(labeler, 0.6, 3) == {
        "fingerprint": "recorder",
        "threshold": 0.6,
        "batch_size": 3,
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }
    labeler.device = torch.device("cuda", 1)
    assert labeler_settings(labeler)["device"] == "cuda"
    assert "threads" not in labeler_settings(labeler)


class InTwo(Recorder):
    """Its maps of a batch can only be made once the next batch, if there is one, is in the model."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.begun = [threading.Event() for _ in range(batches)]
        self.read_on: set[int] = set()
        self.made_on: set[int] = set()

    def ready(self, photo):
        self.read_on.add(threading.get_ident())
        return photo

    def begin(self, photos, threshold):
        number = len(self.batches)
        maps = self.segment(photos, threshold)
        self.begun[number].set()

        def finish():
            self.made_on.add(threading.get_ident())
            assert self.begun[min(number + 1, len(self.begun) - 1)].wait(30)
            return maps, np.full((len(maps), 2), number, dtype=np.float32)

        return finish


def test_maps_are_made_and_written_while_the_next_batch_is_in_the_model(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", [(30, 20)] * 7)
    labeler, answers = InTwo(4), answers_in(tmp_path / "auto", Recorder())
    assert label(labeler, tmp_path / "photos", photos, answers, batch_size=2).made == 7
    here = threading.get_ident()
    assert labeler.threads == {here}
    assert here not in labeler.read_on | labeler.made_on
    assert [answers.features(one.digest).tolist()[0] for one in photos] == [0, 0, 1, 1, 2, 2, 3]
    plain = answers_in(tmp_path / "plain", Recorder())
    label(Recorder(), tmp_path / "photos", photos, plain, batch_size=2)
    assert all(answers.read(one.digest) == plain.read(one.digest) for one in photos)


def test_detr_in_two_is_detr_and_has_no_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has hooks is not recorded as one launch on a GPU. The pooled states: by a hook, as who has no other way."""
    from hf_detr_panoptic.model import segment

    model = tiny_model(SHAPES).eval()
    names = [f"{number}.png" for number in range(2)]
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(names):
        shapes(number, 48, 64)[0].save(tmp_path / "photos" / name)
    photos, _ = survey(tmp_path / "photos", names)
    opened = [Image.open(tmp_path / "photos" / name).convert("RGB") for name in names]
    pooled = []
    hook = model.detr.model.encoder.register_forward_hook(lambda _, __, out: pooled.append(out[0].mean(1)))
    expected = model.segment(opened, threshold=0.0)
    hook.remove()

    recordable = []
    real = segment.detect
    monkeypatch.setattr(segment, "detect", lambda *a, **k: recordable.append(segment._form(model)) or real(*a, **k))
    labeler = DetrLabeler(model)
    answers = AutoLabels.open(tmp_path / "auto", labeler.label_space, labeler_settings(labeler, 0.0))
    assert label(labeler, tmp_path / "photos", photos, answers, threshold=0.0).made == 2
    assert len(recordable) == 1
    assert recordable[0] is not None
    for one, whole, state in zip(photos, expected, pooled[0], strict=True):
        assert np.array_equal(answers.read(one.digest).ids, whole.ids)
        assert np.array_equal(answers.features(one.digest), state.numpy().astype("<f2").astype("f4"))
    assert [map.ids.tolist() for map in labeler.segment(opened, 0.0)] == [map.ids.tolist() for map in expected]
    assert labeler.features.shape == (2, model.config.d_model)
    as_ever = [tmp_path / "photos" / names[0], np.asarray(opened[1])]  # whatever a model takes
    assert [map.ids.tolist() for map in labeler.segment(as_ever, 0.0)] == [map.ids.tolist() for map in expected]
    other = labeler.segment([opened[0], opened[0].resize((30, 60))], 0.0)
    assert [(map.height, map.width) for map in other] == [(48, 64), (60, 30)]
    assert labeler.features is None


def test_a_labeler_that_is_seldom_sure_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model(SHAPES)
    for own, threshold in ((0.6, 0.5), (0.6, 0.6), (0.4, 0.85)):
        model.settings = model.settings.changed(threshold=own)
        _compare_thresholds(DetrLabeler(model), Prepare(images="photos", labeler="mine", threshold=threshold))
    _compare_thresholds(Recorder(), Prepare(images="photos"))
    (said,) = caplog.messages
    assert said.startswith("mine remembers a threshold of 0.4")
    assert said.endswith("0.85 becomes void. --threshold 0.5 keeps it")
