"""Loading: the same draw whatever the workers, epochs that reach them, batches that the model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from PIL import Image
from torch.utils.data import DataLoader

from hf_detr_panoptic import LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.dataset.batches import EpochSampler, PanopticDataset, collate
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.errors import DatasetError
from hf_detr_panoptic.model.targets import Targets
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Augmentation

pytestmark = pytest.mark.bits

SMALL = Preprocess(shortest_edge=64, longest_edge=107)
AUGMENTATION = Augmentation().for_size(64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photos of several sizes, upright and lying."""
    space = LabelSpace.coco()
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("set") / "set"
    with DatasetWriter(path, space) as writer:
        for place in range(9):
            height, width = int(rng.integers(50, 120)), int(rng.integers(50, 120))
            ids = np.zeros((height, width), dtype=np.int32)
            ids[: height // 2] = 100_000 + place
            ids[height // 3 :, width // 3 : 2 * width // 3] = 7
            photo = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            map = PanopticMap(ids, [Segment(7, 3), Segment(100_000 + place, 120, score=0.6, source="auto")], space)
            writer.add("train", f"{place}.png", photo, map)
    return path


@pytest.fixture
def dataset(folder: Path) -> PanopticDataset:
    return PanopticDataset(read_split(folder), SMALL, AUGMENTATION, seed=5)


def two_epochs(dataset: PanopticDataset, **options: Any) -> list[dict[str, Any]]:
    sampler = EpochSampler(len(dataset), seed=5)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler, collate_fn=collate, **options)
    batches = []
    for epoch in (3, 4):
        sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def assert_same(first: Any, second: Any) -> None:
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


def test_the_draw_is_the_same_with_0_2_and_4_workers(dataset: PanopticDataset) -> None:
    alone = two_epochs(dataset)
    assert_same(two_epochs(dataset, num_workers=2, persistent_workers=True), alone)
    assert_same(two_epochs(dataset, num_workers=4), alone)
    first, second = alone[: len(alone) // 2], alone[len(alone) // 2 :]
    drawn = [
        {int(label["image_id"]): label["panoptic"] for batch in epoch for label in batch["labels"]}
        for epoch in (first, second)
    ]
    assert drawn[0].keys() == drawn[1].keys()
    assert any(drawn[0][i].shape != drawn[1][i].shape for i in drawn[0])  # the second epoch really drew anew


def test_threads_and_spawned_workers_draw_the_same_too(dataset: PanopticDataset) -> None:
    alone = two_epochs(dataset)
    assert_same(two_epochs(dataset, num_workers=1, multiprocessing_context="spawn", persistent_workers=True), alone)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert_same(two_epochs(dataset), alone)
    finally:
        torch.set_num_threads(threads)


def test_an_item_depends_on_seed_and_epoch(dataset: PanopticDataset, folder: Path) -> None:
    other = PanopticDataset(read_split(folder), SMALL, AUGMENTATION, seed=6)
    assert_same(dataset[4, 2], dataset[4, 2])
    assert not torch.equal(dataset[4, 2]["pixel_values"][:, :8, :8], dataset[5, 2]["pixel_values"][:, :8, :8])
    assert not torch.equal(dataset[4, 2]["pixel_values"][:, :8, :8], other[4, 2]["pixel_values"][:, :8, :8])
    assert_same(dataset[2], dataset[0, 2])


def test_an_item_does_not_depend_on_its_place(dataset: PanopticDataset, folder: Path) -> None:
    reversed_rows = read_split(folder)[::-1]
    assert_same(PanopticDataset(reversed_rows, SMALL, AUGMENTATION, seed=5)[3, 8], dataset[3, 0])


def test_the_sampler_shuffles_by_seed_and_epoch() -> None:
    sampler = EpochSampler(50, seed=1)
    first = list(sampler)
    assert sorted(first) == [(0, index) for index in range(50)]
    assert first != sorted(first)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert sorted(sampler) == [(1, index) for index in range(50)]
    assert [index for _, index in sampler] != [index for _, index in first]
    assert [index for _, index in EpochSampler(50, seed=2)] != [index for _, index in first]
    assert len(sampler) == 50


@pytest.mark.parametrize("processes", [2, 4])
def test_accelerate_shares_an_uneven_number_out(dataset: PanopticDataset, processes: int) -> None:
    """Nine photos in batches of two: every process gets as many batches, every photo is in one of them."""
    seen: list[list[int]] = []
    for process in range(processes):
        loader = DataLoader(dataset, batch_size=2, sampler=EpochSampler(9, seed=5), collate_fn=collate)
        shard = prepare_data_loader(loader, num_processes=processes, process_index=process, put_on_device=False)
        shard.set_epoch(3)
        batches = list(shard)
        seen.append([int(label["image_id"]) for batch in batches for label in batch["labels"]])
        for batch in batches:
            for place, label in enumerate(batch["labels"]):
                expected = dataset[3, int(label["image_id"]) - 1]
                assert_same(label, expected["labels"])
                height, width = label["valid_size"].tolist()
                assert torch.equal(batch["pixel_values"][place, :, :height, :width], expected["pixel_values"])
    assert len({len(part) for part in seen}) == 1
    assert {image_id for part in seen for image_id in part} == set(range(1, 10))


@pytest.mark.parametrize("processes", [1, 2])
def test_an_epoch_is_resumed_in_its_middle(processes: int) -> None:
    class Keys:
        def __len__(self) -> int:
            return 9

        def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
            return key

    def loader(sampler: EpochSampler) -> Any:
        plain = DataLoader(Keys(), batch_size=2, sampler=sampler, collate_fn=list)  # type: ignore[arg-type]
        return prepare_data_loader(plain, num_processes=processes, process_index=0, put_on_device=False)

    whole = loader(EpochSampler(9, seed=5))
    whole.set_epoch(2)
    undisturbed = list(whole)
    sampler = EpochSampler(9, seed=5)
    resumed = skip_first_batches(loader(sampler), 1)
    resumed.set_epoch(2)
    sampler.set_epoch(2)
    assert list(resumed) == undisturbed[1:]


def test_a_batch_is_padded_and_says_where_it_is_valid(dataset: PanopticDataset) -> None:
    items = [dataset[0, index] for index in (0, 1, 2)]
    batch = collate(items)
    height, width = batch["pixel_values"].shape[-2:]
    assert (height, width) == tuple(max(item["pixel_values"].shape[d] for item in items) for d in (1, 2))
    for item, values, mask in zip(items, batch["pixel_values"], batch["pixel_mask"], strict=True):
        h, w = item["labels"]["valid_size"].tolist()
        assert torch.equal(values[:, :h, :w], item["pixel_values"])
        assert mask.dtype == torch.bool
        assert mask[:h, :w].all()
        assert mask.sum() == h * w
        assert (values[:, ~mask] == 0).all()


def test_a_batch_is_few_files_to_hand_over(dataset: PanopticDataset) -> None:
    items = [dataset[0, index] for index in range(5)]
    batch = collate(items)
    for item, label in zip(items, batch["labels"], strict=True):
        assert_same(item["labels"], label)
    tensors = [value for label in batch["labels"] for value in label.values()]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 5 + 2  # the maps, and two more


def test_the_model_takes_the_labels_as_they_are(dataset: PanopticDataset) -> None:
    batch = collate([dataset[1, index] for index in range(4)])
    targets = Targets.from_labels(
        batch["labels"],
        num_labels=133,
        canvas=tuple(batch["pixel_values"].shape[-2:]),
        device="cpu",
        pixel_mask=batch["pixel_mask"],
    )
    assert len(targets) == sum(len(label["class_labels"]) for label in batch["labels"]) > 0
    assert not targets.absent.any()
    assert [list(size) for size in targets.valid_sizes] == [label["valid_size"].tolist() for label in batch["labels"]]
    for index, label in enumerate(batch["labels"]):
        for place, segment_id in enumerate(label["segment_ids"]):
            mask = targets.mask(index, torch.tensor([place]))[0]
            assert mask.sum() == (label["panoptic"] == segment_id).sum()


def test_a_photo_of_another_size_than_its_map_is_an_error(folder: Path, tmp_path: Path) -> None:
    rows = read_split(folder)
    path = tmp_path / "other.png"
    Image.new("RGB", (30, 20)).save(path)

    class Swapped:
        incomplete = ()
        image_id, where, photo, map = rows[0].image_id, rows[0].where, path, staticmethod(rows[0].map)

    with pytest.raises(DatasetError, match="the photo is 30×20, its map"):
        PanopticDataset([Swapped()], SMALL)[0]
