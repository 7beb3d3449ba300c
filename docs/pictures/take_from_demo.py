"""Take the README's pictures from a finished demo: its strip and its held-out photos, smaller.

Run it: hf-detr-panoptic demo --out demo && python docs/pictures/take_from_demo.py demo
"""

import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
WIDTHS = {"strip": 1400, "held-out": 900}  # pixels
COLOURS = 224  # of a palette: a quarter of the bytes, and no visible loss

if __name__ == "__main__":
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    for name, width in WIDTHS.items():
        picture = Image.open(demo / "pictures" / f"{name}.png").convert("RGB")
        picture.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
        target = HERE / f"demo-{name}.png"
        # The first choice of a palette turns the key's orange brown.
        small = picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
        small.save(target, optimize=True)
        print(f"{target.name}: {picture.width} × {picture.height}, {target.stat().st_size // 1000} kB")
