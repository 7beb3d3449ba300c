"""What strangers may hand over, made from a seed: no command may crash, hang, swell, run it or write elsewhere.

    PYTHONPATH=tests:tests/faults python tests/faults/fuzz.py                        # 200 cases
    PYTHONPATH=tests:tests/faults python tests/faults/fuzz.py --cases 2000 --seed 7
    PYTHONPATH=tests:tests/faults python tests/faults/fuzz.py --only 12 --seed 7     # one again; its folder is kept

Each case is a fork with a limit of time and memory. It must end by itself: with an error of ours, or with 0, and then
a dataset that it made passes `check`. No traceback, no other program, no call, nothing written outside of its folder,
nothing of a file that is not its own in what it made, no code of the case run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forked import Ended
    from hostile import Case
    from world import World

SECONDS, MEGABYTES = 60.0, 2048
WRITE_DATASETS = ("prepare", "overlay", "import-review", "split")


def run(world: World, seed: int, number: int, folder: Path) -> tuple[str, list[str], list[Ended]]:
    """The kind of case, what went wrong, and what was seen."""
    from forked import Watch, start
    from hostile import MAKERS, Case

    rng = random.Random(f"{seed}/{number}")
    kinds = [kind for kind, (weight, _) in MAKERS.items() for _ in range(weight)]
    kind = kinds[number % len(kinds)]
    case = Case(rng, folder, world)
    (folder / "tmp").mkdir(parents=True)
    words = MAKERS[kind][1](case)
    report = world.root / "log" / "deeds"
    report.unlink(missing_ok=True)

    def arrange() -> None:
        tempfile.tempdir = None
        os.environ["TMPDIR"] = str(folder / "tmp")
        Watch(folder, report)()

    ended = start(words, folder / "said", arrange, memory_mb=2 * MEGABYTES).wait(SECONDS)
    seen = [ended]
    wrong = [said for said in [ended.complaint()] if said]
    if ended.code == 2 and not ended.signed:
        wrong.append("no sentence of ours")
    if ended.code is not None and ended.code not in (0, 1, 2):
        wrong.append(f"ended with {ended.code}")
    if ended.peak_mb > MEGABYTES:
        wrong.append(f"{ended.peak_mb:.0f} MB")
    if report.exists() and (deeds := report.read_text(errors="replace").strip()):
        wrong.append(f"deeds: {deeds[:300]}")
    if case.ran.exists() or (world.root / "ran").exists():
        wrong.append("code of the case was run")
    wrong += _leaks(case, ended)
    writes = words[0] in WRITE_DATASETS or (case.out / "annotations").is_dir()  # relabel: a model, too
    if ended.code == 0 and writes and case.out.is_dir():
        if words[0] == "overlay":  # it leaves the sides to `split`, and until then val is empty
            start(["split", case.out], folder / "split").wait(SECONDS)
        again = start(["check", case.out], folder / "checked").wait(SECONDS)
        if again.code != 0:
            wrong.append("what it made does not pass `check`")
            seen.append(again)
    return kind, wrong, seen


def _leaks(case: Case, ended: Ended) -> list[str]:
    from hostile import SECRET

    if SECRET in ended.said + ended.errors:
        return ["a private file was shown"]
    made = [path for path in case.out.rglob("*") if path.is_file()] if case.out.is_dir() else []
    if any(path.is_symlink() or SECRET.encode() in path.read_bytes() for path in made):
        return ["a private file was handed on"]
    html = [path.read_text(errors="replace") for path in made if path.suffix == ".html"]
    code = ("<script>alert(1)", "<img src=x onerror")
    return ["a name is code in a page"] if any(word in page for page in html for word in code) else []


def main() -> None:
    from forked import start, warm, write_modules
    from hostile import SECRET
    from made import tree
    from world import World

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="N", help="this case alone")
    options = parser.parse_args()
    begin = time.monotonic()
    warm()
    root = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
    world = World(root)
    world.make()
    for command in world.commands():
        if "folders" not in command.name and "train" not in command.name:
            world.clear(command)
            modules = root / "log" / "modules"
            start(command.words, root / "log" / "first", after=write_modules(modules)).wait()
            warm(modules.read_text().split())
    shutil.rmtree(world.out, ignore_errors=True)
    (root / "private.json").write_text(json.dumps({"images": [], "note": SECRET}))
    inputs = tree(world.inputs)
    print(f"seed {options.seed}", flush=True)
    failed, kinds, codes = 0, Counter[str](), Counter[str]()
    for number in range(options.cases) if options.only is None else [options.only]:
        folder = root / "case"
        kind, wrong, seen = run(world, options.seed, number, folder)
        if tree(world.inputs) != inputs:
            wrong.append("the world was changed")
        kinds[kind] += 1
        codes[{0: "done", 1: "done in part", 2: "refused"}.get(seen[0].code or 0, "wrong")] += 1
        if wrong or options.only is not None:
            print(f"case {number}, {kind}: {'; '.join(wrong) or 'right'}")
            print("\n".join(f"    {each}" for each in seen), flush=True)
        failed += bool(wrong)
        if options.only is not None:
            print(f"its folder: {folder}")
            return
        shutil.rmtree(folder)
    shutil.rmtree(root)
    print(json.dumps(kinds), json.dumps(codes))
    print(f"{sum(kinds.values())} cases, {failed} failed, seed {options.seed}, {time.monotonic() - begin:.0f} s")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
