"""One step of a tiny panoptic model under DDP, on as many processes as started this script.

    export PYTHONPATH=tests
    python tests/model/distributed_model.py OUT.pt
    torchrun --standalone --nproc_per_node 2 tests/model/distributed_model.py OUT.pt

Rank 0 writes loss and gradients, stage by stage and case by case. Two processes take two images each of the four.
"""

import sys

import torch
from made import tiny_model
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.model.criterion import Denominators, losses_of
from hf_detr_panoptic.model.targets import count_targets

SPACE = LabelSpace([Category("pipe", True), Category("sky", False)])
COUNTS = {"uneven": (1, 0, 6, 3), "rank without targets": (0, 0, 2, 1)}
STAGES = {
    "detection": (("stem", "layer1", "mask_head"), False),
    "mask_head": (("detr",), True),
    "finetune": (("stem", "layer1"), True),
}
SIZE, QUERIES = (64, 96), 8


def make_model():
    model = tiny_model(SPACE, num_queries=QUERIES, auxiliary_loss=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def labels_of(counts):
    made = []
    for count in counts:
        ids = torch.arange(SIZE[0] * SIZE[1], dtype=torch.int32).view(SIZE) % (count + 2)  # a part is void
        boxes = torch.linspace(0.3, 0.6, count)[:, None].expand(count, 4).clone()
        names = torch.arange(count)
        made.append({"class_labels": names % 2, "boxes": boxes, "panoptic": ids, "segment_ids": names + 1})
    return made


def main(out):
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    many = torch.distributed.is_torchelastic_launched()
    if many:
        distributed.init_process_group("gloo")
    rank, processes = (distributed.get_rank(), distributed.get_world_size()) if many else (0, 1)
    pixels = torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    share = slice(rank * 4 // processes, (rank + 1) * 4 // processes)
    results = {}
    for stage, (frozen, with_masks) in STAGES.items():
        for case, counts in COUNTS.items():
            model = make_model()
            model.freeze(*frozen)
            model.with_masks = with_masks
            model.train()
            wrapped = DistributedDataParallel(model) if many else model
            labels = labels_of(counts)[share]
            denominators = Denominators.of(count_targets(labels), QUERIES, losses_of(model.config))
            loss = wrapped(pixels[share], labels=labels, denominators=denominators.summed_over_ranks()).loss
            loss.backward()
            total = loss.detach().clone()
            if many:
                distributed.all_reduce(total)
            gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
            results[f"{stage}, {case}"] = {"loss": total / processes, "gradients": gradients}
    if rank == 0:
        torch.save(results, out)
    if many:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
