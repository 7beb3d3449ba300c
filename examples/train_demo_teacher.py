"""Make the demo's teacher from scratch: a DETR panoptic of 1.4 M parameters that has never seen the person's classes.

    python examples/train_demo_teacher.py --out teacher

It stands in for the COCO checkpoint that the demo cannot download. Its photos are synthetic scenes without anything of
the four custom classes; how well it does is measured on scenes it has not seen, and written into its card. The shipped
one took 59 minutes of CPU time; made twice, the bytes were the same.

What makes so small a DETR learn so fast: batch norm that is live until it is frozen for the last steps; queries that
look at a grid of places from the start; a mask head whose attention channels are strengthened; and, while training
only, three linear layers that ask backbone and encoder what each place shows and how large its segment is.
"""

import argparse
import math
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import DetrConfig
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from hf_detr_panoptic import DetrForPanopticSegmentation, PanopticQuality
from hf_detr_panoptic.dataset.transforms import Draw, Window, make_labels, rng_of
from hf_detr_panoptic.demo.scenes import CUSTOM, TEACHER, scene
from hf_detr_panoptic.model.checkpoints import strengthen_attention
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Postprocess

PHOTO = (192, 256)
BATCH = 16
# (height and width in training, share of the steps, are masks learnt?)
PHASES = (((128, 160), 0.15, False), ((128, 160), 0.7, True), (PHOTO, 0.15, True))
RATES = [6e-4, 1.5e-3]  # at most: of everything, and of the mask head
LIVE_UNTIL = 0.93  # share of the steps after which batch norm is frozen
SLIVER = 0.0015  # what cropping leaves smaller than this share of the picture is nobody's
SETTINGS = Postprocess(threshold=0.6, mask_threshold=0.3, min_area=40, duplicate=0.3)
HELD_OUT = 7  # the seed of scenes that are never learnt from


class Scenes(Dataset):
    """Scenes by (phase, step): cut, mirrored and tinted as (seed, step, place) says."""

    def __init__(self, count, seed):
        self.seed, self.preprocess = seed, Preprocess(shortest_edge=PHOTO[0], longest_edge=PHOTO[1])
        self.photos = torch.empty(count, 3, *PHOTO, dtype=torch.uint8)
        self.maps = np.empty((count, *PHOTO), np.uint8)
        self.segments = []
        for index in tqdm(range(count), desc="painting", unit="scene"):
            made = scene(seed, index, PHOTO[::-1], custom=False)
            self.photos[index] = torch.from_numpy(np.array(made.photo)).permute(2, 0, 1)
            self.maps[index] = made.truth.ids
            self.segments.append(made.truth.segments)

    def __getitem__(self, key):
        """A batch: (float32 [B, 3, h, w], labels)."""
        step, size = key
        rng = rng_of(self.seed, step)
        made = [self._varied(rng.randrange(len(self.maps)), size, rng) for _ in range(BATCH)]
        return torch.stack([pixels for pixels, _ in made]), [labels for _, labels in made]

    def _varied(self, index, size, rng):
        share = rng.uniform(0.6, 1) if rng.random() < 0.6 else 1
        height, width = round(PHOTO[0] * share), round(PHOTO[1] * share)
        window = Window(rng.randint(0, PHOTO[0] - height), rng.randint(0, PHOTO[1] - width), height, width)
        tints = [rng.uniform(0.8, 1.2) for _ in range(3)]
        draw = Draw(window, size, rng.random() < 0.5, *tints)
        ids = draw.ids(self.maps[index].astype(np.int32))
        areas = np.bincount(ids.ravel())
        ids = np.where(areas[ids] < SLIVER * ids.size, 0, ids)
        return draw.photo(self.photos[index], self.preprocess), make_labels(ids, self.segments[index], image_id=index)


class Questions(nn.Module):
    """What is at each place, and which box its segment has? Asked while training only."""

    def __init__(self, model):
        super().__init__()
        self.levels = nn.ModuleList(nn.LazyConv2d(len(TEACHER), 1) for _ in range(4))
        self.encoder = nn.Linear(model.config.d_model, len(TEACHER) + 4)
        self.features = []
        self.hook = model.detr.model.backbone.register_forward_hook(self._keep)

    def _keep(self, module, inputs, output):
        self.features = [level if isinstance(level, torch.Tensor) else level[0] for level in output]

    def forward(self, memory, labels):
        classes, boxes = answers(labels)
        height, width = self.features[0].shape[-2:]
        logits = sum(
            nn.functional.interpolate(ask(level), (height, width), mode="bilinear")
            for ask, level in zip(self.levels, self.features, strict=True)
        )
        dense = nn.functional.cross_entropy(logits, sampled(classes, height, width), ignore_index=-1)
        height, width = self.features[-1].shape[-2:]
        told = self.encoder(memory)
        there = sampled(classes, height, width).flatten()
        known = there >= 0
        wanted = sampled(boxes, height, width).flatten(0, 2)[known]
        dense = dense + nn.functional.cross_entropy(told[..., : len(TEACHER)].flatten(0, 1), there, ignore_index=-1)
        return dense + 5 * nn.functional.l1_loss(told[..., len(TEACHER) :].sigmoid().flatten(0, 1)[known], wanted)


def answers(labels):
    """int64 [B, H, W], the class of each pixel, −1 in void; float [B, H, W, 4], the box of its segment."""
    classes, boxes = [], []
    for label in labels:
        size = int(label["segment_ids"].max()) + 1
        class_of, box_of = torch.full((size,), -1), torch.zeros(size, 4)
        class_of[label["segment_ids"]] = label["class_labels"]
        box_of[label["segment_ids"]] = label["boxes"]
        ids = label["panoptic"].long()
        ids = torch.where(ids < size, ids, 0)
        classes.append(class_of[ids])
        boxes.append(box_of[ids])
    return torch.stack(classes), torch.stack(boxes)


def sampled(maps, height, width):
    rows = (2 * torch.arange(height) + 1) * maps.shape[1] // (2 * height)
    columns = (2 * torch.arange(width) + 1) * maps.shape[2] // (2 * width)
    return maps[:, rows][:, :, columns]


def new_model():
    backbone = {
        "model_type": "timm_backbone",
        "backbone": "test_resnet",
        "features_only": True,
        "out_indices": [1, 2, 3, 4],
        "output_stride": 16,
        "use_pretrained_backbone": False,
    }
    sizes = {"d_model": 128, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    sizes |= {"mask_loss_coefficient": 3, "dice_loss_coefficient": 3}
    config = DetrConfig(backbone_config=backbone, num_queries=40, dropout=0.0, **sizes, **TEACHER.to_config())
    model = DetrForPanopticSegmentation(config)
    model.auxiliary_loss = True
    model.image_processor = Preprocess(shortest_edge=PHOTO[0], longest_edge=PHOTO[1])
    ground_queries(model)
    strengthen_attention(model)
    model.freeze()
    return model


@torch.no_grad()
def ground_queries(model, columns=8):
    """Each query looks at its own place from the start."""
    detr, count, channels = model.detr.model, model.config.num_queries, model.config.d_model
    rows = math.ceil(count / columns)
    frequencies = 10000 ** (2 * torch.div(torch.arange(channels // 2), 2, rounding_mode="floor") / (channels // 2))
    for query in range(count):
        halves = []
        for share in ((query // columns + 0.5) / rows, (query % columns + 0.5) / columns):
            angles = share * 2 * torch.pi / frequencies
            halves.append(torch.stack([angles[0::2].sin(), angles[1::2].cos()], 1).flatten())
        detr.query_position_embeddings.weight[query] = torch.cat(halves)
    for layer in detr.decoder.layers:
        for projection in (layer.encoder_attn.q_proj, layer.encoder_attn.k_proj):
            nn.init.eye_(projection.weight)
            projection.weight.mul_(2.0)
            nn.init.zeros_(projection.bias)


def swap_norms(model, old, new):
    """Live batch norm for frozen, or the other way round; weights and statistics stay."""
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, old):
                swapped = new(norm.weight.shape[0])
                kept = {key: value for key, value in norm.state_dict().items() if key in swapped.state_dict()}
                swapped.load_state_dict(kept, strict=False)
                setattr(parent, name, swapped)


def train(model, scenes, steps, seed):
    torch.manual_seed(seed)
    questions = Questions(model)
    swap_norms(model, DetrFrozenBatchNorm2d, nn.BatchNorm2d)
    model.train()
    plan = [(size, masks) for size, share, masks in PHASES for _ in range(round(share * steps))]
    with torch.no_grad():  # the lazy layers learn their sizes
        pixels, labels = scenes[0, PHASES[0][0]]
        model.with_masks = False
        questions(model(pixel_values=pixels, labels=labels).encoder_last_hidden_state, labels)
    parameters = [*model.parameters(), *questions.parameters()]
    head = [*model.mask_head.parameters(), *model.bbox_attention.parameters()]
    others = [parameter for parameter in parameters if not any(parameter is one for one in head)]
    optimizer = torch.optim.AdamW([{"params": others}, {"params": head}], weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATES, len(plan), pct_start=0.06)
    batches = DataLoader(
        scenes, batch_size=None, sampler=[(step, size) for step, (size, _) in enumerate(plan)], num_workers=1
    )
    means: dict[str, float] = {}
    bar = tqdm(batches, desc="learning", unit="step", total=len(plan), mininterval=10)
    for step, (pixels, labels) in enumerate(bar):
        if step == round(LIVE_UNTIL * len(plan)):
            swap_norms(model, nn.BatchNorm2d, DetrFrozenBatchNorm2d)
        model.with_masks = plan[step][1]
        found = model(pixel_values=pixels, labels=labels)
        loss = found.loss + questions(found.encoder_last_hidden_state, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        for name, value in {**found.loss_dict, "all": loss.detach()}.items():
            if name[-1].isdigit():
                continue
            means[name] = 0.98 * means.get(name, float(value)) + 0.02 * float(value)
        if step % 50 == 49:
            bar.set_postfix({name.removeprefix("loss_"): f"{value:.3f}" for name, value in means.items()})
    questions.hook.remove()


def quality(model, count):
    model.eval()
    model.with_masks = True
    measured = PanopticQuality(TEACHER)
    for index in range(count):
        made = scene(HELD_OUT, index, PHOTO[::-1], custom=False)
        (map,) = model.segment(made.photo)
        measured.update(map, made.truth)
    return measured.compute()


CARD = """\
---
library_name: transformers
pipeline_tag: image-segmentation
license: apache-2.0
---

# The demo's teacher

A DETR panoptic of {parameters:.2f} million parameters, in half precision. It was made from scratch by
`python examples/train_demo_teacher.py`: {steps} steps of {batch} on {scenes} synthetic scenes (seed {seed}),
{minutes:.0f} minutes of CPU time. It stands in for a COCO checkpoint where there is no network. It knows synthetic
scenes only, and of them not what the demo's person marks: {custom}.

On {held_out} scenes that it has not seen (seed {held_out_seed}), {width} × {height}, with the settings that it
remembers: PQ {pq:.3f}, SQ {sq:.3f}, RQ {rq:.3f}; things {things:.3f}, stuff {stuff:.3f}.

| class | | PQ | SQ | RQ |
|---|---|---|---|---|
{rows}
"""


def card(model, result, given, minutes):
    rows = [
        f"| {row['name']} | {'thing' if row['isthing'] else 'stuff'} | "
        + " | ".join(f"{row[key]:.3f}" for key in ("pq", "sq", "rq"))
        + " |"
        for row in result["per_class"]
    ]
    return CARD.format(
        parameters=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        steps=given.steps,
        batch=BATCH,
        scenes=given.scenes,
        seed=given.seed,
        minutes=minutes,
        custom=", ".join(CUSTOM.names),
        held_out=given.held_out,
        held_out_seed=HELD_OUT,
        height=PHOTO[0],
        width=PHOTO[1],
        things=result["things"]["pq"],
        stuff=result["stuff"]["pq"],
        rows="\n".join(rows),
        **{key: result[key] for key in ("pq", "sq", "rq")},
    )


def main(given):
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    began = sum(os.times()[:4])
    model = new_model()
    train(model, Scenes(given.scenes, given.seed), given.steps, given.seed)
    minutes = (sum(os.times()[:4]) - began) / 60
    model.config.mask_loss_coefficient = model.config.dice_loss_coefficient = 1  # as everywhere else
    model.settings = SETTINGS
    # Half precision halves the file; what is measured is what is shipped.
    model.half().float()
    result = quality(model, given.held_out)
    text = card(model, result, given, minutes)
    model.half().save_pretrained(given.out)
    (given.out / "README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=5400)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1000)
    main(parser.parse_args())
