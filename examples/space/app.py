# A whole demo: three lines and your model's name. `hf-detr-panoptic push --demo` writes them into a Space for you.
import sys

from hf_detr_panoptic.cli import main

sys.exit(main(["app", "facebook/detr-resnet-50-panoptic", "--title", "COCO, every pixel"]))
