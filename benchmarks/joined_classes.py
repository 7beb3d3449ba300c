"""Classes joined afterwards: which row makes one class of several? The shipped teacher on the demo's scenes.

    python benchmarks/joined_classes.py --scenes 24

PQ of all classes, and in brackets of the joined one. `before`: the maps of the model as it was, relabelled, against
the truth; then, for each rule, the joined model's maps against the truth, and against those.
"""

from __future__ import annotations

import argparse

import torch
from measure import machine, print_table

from hf_detr_panoptic import DetrForPanopticSegmentation, LabelSpace, PanopticMap, PanopticQuality
from hf_detr_panoptic.demo.demo import teacher_folder
from hf_detr_panoptic.demo.scenes import SITE, TEACHER, scene

GROUPS = {
    "vehicle": ["car", "truck"],
    "ground": ["dirt-merged", "pavement-merged", "grass-merged"],
    "thing": ["person", "car", "truck", "traffic cone", "ladder"],
    "green": ["tree-merged", "grass-merged"],
}
RULES = ("mean", "mean + log n", "sum less the average", "fitted on 1 photo", "fitted on 8 photos")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=24, help="(%(default)s)")
    given = parser.parse_args()
    print(machine(), flush=True)
    scenes = [scene(3, index) for index in range(given.scenes)]
    photos = [made.photo for made in scenes]
    before = teacher().segment(photos)
    rows = []
    for group, members in GROUPS.items():
        space = TEACHER.merged(LabelSpace([]), merge={group: members})
        names = {name: group if name in members else name for name in TEACHER.names}
        fate = {name: names.get(name) for name in SITE.names}
        truths = [made.truth.relabelled(space, fate).fused_stuff() for made in scenes]
        old = [panoptic.relabelled(space, names).fused_stuff() for panoptic in before]
        rows.append([group, "before", told(old, truths, group), ""])
        for rule in RULES:
            new = joined(group, members, space, rule).segment(photos)
            rows.append(["", rule, told(new, truths, group), told(new, old, group)])
    print()
    print_table(["group", "row", "against the truth", "against the maps before"], rows)


def teacher() -> DetrForPanopticSegmentation:
    return DetrForPanopticSegmentation.from_pretrained(teacher_folder()).eval()


@torch.no_grad()
def joined(group: str, members: list[str], space: LabelSpace, rule: str) -> DetrForPanopticSegmentation:
    model = teacher()
    old = model.detr.class_labels_classifier
    rows = [model.label_space.index(name) for name in members]
    count = {"fitted on 1 photo": 1, "fitted on 8 photos": 8}.get(rule, 0)
    weight, bias = old.weight[rows].mean(0), old.bias[rows].mean(0)
    model.carry_classes(space, origins={group: members}, photos=[scene(9, index).photo for index in range(count)])
    if rule.startswith("mean"):
        head, place = model.detr.class_labels_classifier, space.index(group)
        head.weight[place] = weight
        head.bias[place] = bias + (torch.tensor(float(len(members))).log() if "log" in rule else 0.0)
    return model.eval()


def told(predictions: list[PanopticMap], truths: list[PanopticMap], group: str) -> str:
    quality = PanopticQuality(truths[0].space)
    for prediction, truth in zip(predictions, truths, strict=True):
        quality.update(prediction, truth)
    result = quality.compute()
    alone = next(row for row in result["per_class"] if row["name"] == group)
    return f"{100 * result['pq']:.1f} ({100 * (alone['pq'] or 0):.1f})"


if __name__ == "__main__":
    main()
