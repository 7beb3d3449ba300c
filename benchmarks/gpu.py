"""What this does on a GPU, unattended: is it right, is it fast, and where does it wait?

    python benchmarks/gpu.py --out gpu                  # every part, each under four minutes
    python benchmarks/gpu.py --only right,fast --budget 300
    python benchmarks/gpu.py --device cpu               # a tiny form of every part: that it runs, not how fast
    python benchmarks/gpu.py --tables gpu               # what was written before, as the tables of RESULTS.md

No network and no checkpoint: random weights, and the teacher that comes with the package. Each part leaves
OUT/PART.json with the card, the driver, versions and every figure so far, so that a run that is cut off counts. What
comes first in a part tells most. `right` and `fast` need torch, transformers, timm, torchvision, scipy, pillow, pyyaml
and pydantic; the other parts the whole package, and they say so where it is not there.

    right      against stock and against the CPU: outputs, maps, losses, in every precision
    fast       photo to map and training steps against stock, memory, and what the host waits for
    loop       Trainer with photos from the disk: images a second, and the share that it waits for them
    learning   the demo's recipe for as long as there is time
    hours      of construction.yaml on 1,000 and 10,000 photos, from the rates of `loop`
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from gpu_bench import Bench, Row, run_part
from gpu_fast import fast
from gpu_loop import hours, learning, loop
from gpu_right import right
from measure import print_table

PART_SECONDS = 230.0

PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "right": right,
    "fast": fast,
    "loop": loop,
    "learning": learning,
    "hours": hours,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="A,B", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="stop before it, with whole files")
    parser.add_argument("--out", type=Path, default=Path("gpu"), metavar="DIR", help="(%(default)s)")
    parser.add_argument("--tables", type=Path, metavar="DIR", help="print what is there, as Markdown, and run nothing")
    given = parser.parse_args()
    if given.tables:
        show(given.tables)
        return
    chosen = given.only.split(",") if given.only else list(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; known: {', '.join(PARTS)}")
    device = torch.device(given.device)
    torch.manual_seed(0)
    bench = Bench.tiny(device, given.out) if device.type == "cpu" else Bench(device, given.out)
    end = time.monotonic() + (math.inf if given.budget is None else given.budget)
    for name in chosen:
        bench.until = end if bench.small else min(end, time.monotonic() + PART_SECONDS)
        run_part(name, PARTS[name], bench)


def show(folder: Path) -> None:
    for path in sorted(folder.glob("*.json"), key=lambda path: [*PARTS, path.stem].index(path.stem)):
        told = json.loads(path.read_bytes())
        versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
        card = told.get("card", "CPU")
        driver = f", driver {told['driver']}" if "driver" in told else ""
        print(f"\n## {told['part']}\n\n{card}{driver}, {told['cores']} cores, Python {told['python']}, {versions}, "
              f"{told['date']}, {told['seconds']:.0f} s{', cut off' if told['cut'] else ''}.")  # fmt: skip
        for table in dict.fromkeys(row["table"] for row in told["rows"]):
            rows = [{key: value for key, value in row.items() if key != "table"} for row in told["rows"]
                    if row["table"] == table]  # fmt: skip
            header = list(dict.fromkeys(key for row in rows for key in row))
            print(f"\n**{table}**\n")
            print_table(header, [[row.get(key, "") for key in header] for row in rows])


if __name__ == "__main__":
    main()
