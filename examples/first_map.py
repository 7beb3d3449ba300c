"""The value everything here speaks: a panoptic map, its areas, boxes and labels, all from the pixels.

Run it: python examples/first_map.py
"""

import numpy as np

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment

# A person's class in front, then what COCO's pretrained DETR knows; all its other things become void.
mine = LabelSpace([Category("pipe", isthing=True)])
space = LabelSpace.coco().merged(mine, keep=["person", "sky-other-merged"])

# 1 is sky, two segments; 7 and 9 are pipes; 0 is void: nobody knows.
ids = np.array(
    [
        [1, 1, 1, 2, 2, 2],
        [1, 1, 7, 7, 2, 2],
        [0, 0, 7, 7, 9, 0],
        [0, 0, 0, 0, 9, 0],
    ]
)
sky, pipe = space.index("sky-other-merged"), space.index("pipe")
scene = PanopticMap(
    ids,
    [
        Segment(1, sky, score=0.9, source="auto"),
        Segment(2, sky, score=0.8, source="auto"),
        Segment(7, pipe),
        Segment(9, pipe),
    ],
    space,
)

print(scene)
print("areas            ", scene.areas())
print("boxes (x, y, w, h)", scene.boxes())
print("stuff fused      ", scene.fused_stuff())
print("without a pipe   ", scene.without([9]))
