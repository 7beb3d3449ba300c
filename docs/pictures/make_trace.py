"""The pictures and the table of docs/how-detr-panoptic-works.md, made again.

python docs/pictures/make_trace.py                # the pictures: the demo's teacher on one scene of the demo
python docs/pictures/make_trace.py --model DIR    # the same with another DETR panoptic checkpoint
python docs/pictures/make_trace.py --table        # the table: a ResNet-50 at 873×1060, with random weights; minutes
"""

from __future__ import annotations

import argparse
import io
import tempfile
from dataclasses import replace
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
PAGE = HERE.parent / "how-detr-panoptic-works.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
SCENE = (3, 6)  # seed and index; without the classes that the teacher does not know
MOST_BYTES = 250_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="DIR", help="(the demo's teacher)")
    parser.add_argument("--table", action="store_true", help="the table instead of the pictures")
    args = parser.parse_args()
    if args.table:
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    else:
        pictures(args.model)


def pictures(model: str | None = None, folder: Path = HERE) -> list[Path]:
    """Trace the scene and keep the pictures, each in 256 colours."""
    from hf_detr_panoptic.demo.scenes import scene
    from hf_detr_panoptic.steps.trace.command import load_model, trace_photo

    if model is None:
        from hf_detr_panoptic.demo.demo import teacher_folder

        model = str(teacher_folder())
    written = []
    with tempfile.TemporaryDirectory() as made:
        photo = Path(made) / "scene.png"
        scene(*SCENE, custom=False).photo.save(photo)
        trace_photo(load_model(model), photo, Path(made) / "out")
        for path in sorted((Path(made) / "out").glob("*.png")):
            stream = io.BytesIO()
            with Image.open(path) as picture:
                picture.quantize(256).save(stream, "PNG", optimize=True)
            if stream.tell() > MOST_BYTES:
                raise SystemExit(f"{path.name} has {stream.tell()} bytes: more than {MOST_BYTES} in a repository")
            written.append(folder / path.name)
            written[-1].write_bytes(stream.getvalue())
    return written


def table() -> str:
    """Two images of 873×1060, as in the documents that this project comes from, through the real modules."""
    import torch
    from transformers import DetrConfig

    from hf_detr_panoptic import DetrForPanopticSegmentation, LabelSpace
    from hf_detr_panoptic.model.trace import trace
    from hf_detr_panoptic.steps.trace.story import shape_table
    from hf_detr_panoptic.visual.trace_page import markdown_table

    torch.manual_seed(0)
    model = DetrForPanopticSegmentation(DetrConfig(use_pretrained_backbone=False), LabelSpace.coco()).eval()
    traced = trace(model, torch.randn(2, 3, 873, 1060))
    # What random weights keep at the end says nothing.
    modules = tuple(row for row in traced.shapes if row.module not in ("choose_queries", "postprocess"))
    return markdown_table(shape_table(replace(traced, shapes=modules)))


if __name__ == "__main__":
    main()
