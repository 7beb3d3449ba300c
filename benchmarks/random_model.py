"""A DETR of random weights that finds ten things on a photo, saved as a model: what exports and pages are tried on.

    python benchmarks/random_model.py OUT [--backbone resnet50] [--size 512x672] [--dilation]

Photos are resized to fit into `--size` (height x width). Without options: DETR's default configuration, timm's R50.
"""

from __future__ import annotations

import argparse

import torch
from transformers import DetrConfig

from hf_detr_panoptic import Category, DetrForPanopticSegmentation, LabelSpace
from hf_detr_panoptic.demo.scenes import scene
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Postprocess

FOUND = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="a new folder")
    parser.add_argument("--backbone", default="resnet50", help="of timm")
    parser.add_argument("--size", default="512x672", help="height x width")
    parser.add_argument("--dilation", action="store_true", help="DC5")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    space = LabelSpace([Category("thing", True), Category("stuff", False)])
    torch.manual_seed(0)
    config = DetrConfig(backbone=args.backbone, dilation=args.dilation, **space.to_config())
    model = DetrForPanopticSegmentation(config).eval()
    with torch.no_grad():  # else the queries are so alike that to tell them apart is to tell rounding apart
        model.detr.model.query_position_embeddings.weight.normal_(std=3.0)
        for each in (model.bbox_attention.q_proj, model.bbox_attention.k_proj):  # and so are their masks
            each.weight.mul_(10)
    model.image_processor = Preprocess(None, None, fit_within=(height, width))
    model.settings = Postprocess(threshold=0.5, min_area=0, duplicate=1.0)
    photo = model.preprocess(scene(11, 0, (width, height)).photo)
    with torch.no_grad():
        head = model.detr.class_labels_classifier
        direction = head.weight[0].clone()
        states = model(photo[None], output_masks=False).last_hidden_state[0]
        heights = (states @ direction).sort(descending=True).values
        steepness = 4 / (heights[0] - heights[-1])
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, -9.0, 0.0]))
        head.weight[0] = steepness * direction
        head.bias[0] = -steepness * heights[FOUND - 1 : FOUND + 1].mean()
    model.save_pretrained(args.out)
    (found,) = model.segment(scene(11, 0, (width, height)).photo)
    with torch.no_grad():
        masks = model(photo[None]).pred_masks[0]
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    apart = float((masks - masks.mean(0)).abs().mean() / (masks.max() - masks.min()))
    print(f"masks of two queries are {apart:.1e} of the range apart on average")
    print(f"{args.out}: {args.backbone}, {millions:.1f} M weights, {len(found.segments)} segments on a photo")


if __name__ == "__main__":
    main()
