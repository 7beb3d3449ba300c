"""What fewer bits cost: PQ and size of the demo's teacher, exported in each precision, on scenes that it has not seen.

    python benchmarks/export_precision.py [--photos 60] [--precision fp16 int8]

The classes are the teacher's own; `export --data` measures and, where int8 loses too much, refuses.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from pathlib import Path

import torch
from measure import machine, print_table

import hf_detr_panoptic
from hf_detr_panoptic.browser.export import PRECISIONS, export
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.demo.scenes import TEACHER, scenes
from hf_detr_panoptic.errors import ModelError

MODEL = Path(hf_detr_panoptic.__file__).parent / "demo" / "teacher"
HELD_OUT = 7  # the seed of the scenes that the teacher's own card is measured on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=("fp16", "int8"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(("torch", "onnxruntime", "onnxscript")))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        with DatasetWriter(Path(scratch) / "data", TEACHER) as writer:
            for index, made in enumerate(scenes(args.photos, HELD_OUT, custom=False)):
                writer.add("val", f"{index}.png", made.photo, made.truth)
        for precision in args.precision:
            try:
                done = export(MODEL, Path(scratch) / precision, precision=precision, data=Path(scratch) / "data")
            except ModelError as error:
                rows.append([precision, "", "", "", str(error)])
                continue
            contents = [path.read_bytes() for path in sorted(done.folder.glob("*.onnx"))]
            sizes = [sum(map(len, each)) / 1e6 for each in (contents, [gzip.compress(one, 9) for one in contents])]
            pq = done.figures["pq"]
            rows.append(
                [precision, *(f"{size:.2f} MB" for size in sizes), f"{pq['model']:.2f}", f"{pq['exported']:.2f}"]
            )
    print_table(["stored as", "both graphs", "gzipped", "PQ of the model", "PQ of the graphs"], rows)


if __name__ == "__main__":
    main()
