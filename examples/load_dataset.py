"""A prepared dataset as `datasets` has it: python examples/load_dataset.py data/site"""

import sys

from hf_detr_panoptic import load_panoptic
from hf_detr_panoptic.dataset.rows import to_panoptic_map

splits = load_panoptic(sys.argv[1])  # a folder, or a name on the Hub; a folder goes through dataset/builder.py
for name, rows in splits.items():
    print(f"{name}: {len(rows)} photos, columns {', '.join(rows.column_names)}")
row = splits["train"][0]
scene = to_panoptic_map(row, splits.label_space)
print(row["image"].size, *(f"{splits.label_space[s.label].name} ({s.source})" for s in scene.segments))
