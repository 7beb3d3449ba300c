"""One optimizer step's losses and gradients of a small linear model, on as many processes as started this script.

    python distributed_step.py OUT.pt
    torchrun --standalone --nproc_per_node 2 distributed_step.py OUT.pt

Rank 0 writes, case by case, our losses and gradients and for the first case stock's. Image i belongs to
rank i // 2 of two; each rank takes its images one by one, as two micro-batches.
"""

import contextlib
import os
import sys

import torch
from accelerate import PartialState
from torch import nn
from transformers import DetrConfig
from transformers.loss.loss_for_object_detection import ForSegmentationLoss

from hf_detr_panoptic.model.criterion import Denominators, criterion
from hf_detr_panoptic.model.matcher import Predictions, match
from hf_detr_panoptic.model.targets import Targets, count_targets
from hf_detr_panoptic.settings import Losses

# Targets of the four images; the queries are 32. In the second case rank 0 has none at all.
CASES = {"uneven": (3, 0, 30, 5), "rank without targets": (0, 0, 5, 3), "nobody has targets": (0, 0, 0, 0)}
NUM_LABELS, NUM_QUERIES, GRID, CANVAS = 4, 32, (6, 8), (24, 32)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.classes, self.boxes, self.masks = nn.Linear(5, NUM_LABELS + 1), nn.Linear(5, 4), nn.Linear(5, 48)

    def forward(self, queries, labels, denominators=None, stock=False):
        logits, boxes = self.classes(queries), self.boxes(queries).sigmoid()
        masks = self.masks(queries).unflatten(-1, GRID)
        if stock:
            config = DetrConfig(id2label={i: str(i) for i in range(NUM_LABELS)})
            return ForSegmentationLoss(logits, labels, "cpu", boxes, masks, config)[:2]
        predictions = Predictions(logits, boxes)
        targets = Targets.from_labels(labels, num_labels=NUM_LABELS, canvas=CANVAS, device="cpu")
        matching = match(predictions, targets)
        chosen = masks[matching.image_index, matching.query_index]
        return criterion(predictions, targets, matching, chosen, denominators=denominators)


def batch_of(counts):
    """Queries [4, Q, 5] and labels; a third of each map is void, each segment has a few pixels.

    An image without targets is labelled in Hugging Face's form: background, not void, so its queries learn that.
    """
    random = torch.Generator().manual_seed(7)
    queries = torch.randn(len(counts), NUM_QUERIES, 5, generator=random)
    labels = []
    for count in counts:
        ids = torch.arange(24 * 32, dtype=torch.int32).view(CANVAS) % (count + 1 + (count + 1) // 2)
        label = {
            "class_labels": torch.randint(0, NUM_LABELS, (count,), generator=random),
            "boxes": torch.rand(count, 4, generator=random) * 0.5 + 0.2,
        }
        if count:
            label["panoptic"] = ids.where(ids <= count, torch.tensor(0, dtype=torch.int32))
            label["segment_ids"] = torch.arange(1, count + 1)
        else:
            label["masks"] = torch.zeros(0, *CANVAS)
        labels.append(label)
    return queries, labels


def step(model, micro_batches, denominators, stock=False):
    """Sums of the losses over the micro-batches, and the gradients that DDP leaves."""
    model.zero_grad()
    sums = {}
    for index, (queries, labels) in enumerate(micro_batches):
        last = index == len(micro_batches) - 1
        with contextlib.nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
            loss, losses = model(queries, labels, denominators, stock)
            loss.backward()
        for name, value in (losses | {"loss": loss}).items():
            sums[name] = sums.get(name, 0) + value.detach()
    for value in sums.values():
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(value)
            value /= torch.distributed.get_world_size()
    return {"losses": sums, "gradients": [parameter.grad.clone() for parameter in model.parameters()]}


def main(out):
    torch.set_default_dtype(torch.float64)
    state = PartialState(cpu=True)
    assert state.num_processes == int(os.environ.get("WORLD_SIZE", 1))
    results = {}
    for case, counts in CASES.items():
        torch.manual_seed(0)
        model = Linear()
        queries, labels = batch_of(counts)
        if state.num_processes == 1:
            mine = [(queries, labels)]
        else:
            model = nn.parallel.DistributedDataParallel(model)
            images = (2 * state.process_index, 2 * state.process_index + 1)
            mine = [(queries[i : i + 1], labels[i : i + 1]) for i in images]
        own = [count for _, some in mine for count in count_targets(some)]
        denominators = Denominators.of(own, NUM_QUERIES, Losses()).summed_over_ranks()
        results[case] = {"denominators": denominators.boxes, "ours": step(model, mine, denominators)}
        if case == "uneven":
            for entry in labels:
                if "panoptic" in entry:
                    entry["masks"] = (entry["panoptic"] == entry["segment_ids"][:, None, None]).double()
            # Stock knows nothing of micro-batches: the rank's images at once.
            images = [i for i in range(4) if state.num_processes == 1 or i // 2 == state.process_index]
            whole = [(queries[images], [labels[i] for i in images])]
            results[case]["stock"] = step(model, whole, None, stock=True)
    if state.is_main_process:
        torch.save(results, out)
    state.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
