"""Train from a recipe, in as many processes as accelerate starts; without one, run the demo.

    python examples/train.py
    accelerate launch examples/train.py
    accelerate launch examples/train.py construction.yaml
    accelerate launch --config_file training_args/accelerate/multi_gpu.yaml examples/train.py construction.yaml

With a recipe it is the command `hf-detr-panoptic train`, with the same flags: `--help` lists them. Alone it is
`hf-detr-panoptic demo`: the whole road on a synthetic site, offline, in minutes on two cores.
"""

import sys

from hf_detr_panoptic.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "--no-launch", *sys.argv[1:]] if sys.argv[1:] else ["demo"]))
