"""Links between the pages and into the repository lead somewhere; the pages' names for things are the real ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """As GitHub makes them from headings: lower case, without punctuation, hyphens for blanks, repeats numbered."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = found.setdefault(slug, 0)
        found[slug] += 1
        names.add(f"{slug}-{count}" if count else slug)
    return names


def test_anchors_are_githubs() -> None:
    text = "# Byte by byte\n## `id` = R + 256·G\n## Byte by byte\n### What's *read*?\n"
    assert anchors(text) == {"byte-by-byte", "id--r--256g", "byte-by-byte-1", "whats-read"}


def test_every_link_leads_somewhere(page: str, root: Path, prose) -> None:
    broken = []
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (root / page).parent / name if name else root / page
        if not path.exists() or not path.resolve().is_relative_to(root):
            broken.append(target)
        elif anchor and anchor not in anchors(prose(path.resolve().relative_to(root).as_posix())):
            broken.append(f"{target} (no such heading)")
    assert broken == []


def test_every_page_is_in_the_index(root: Path, prose) -> None:
    listed = {target.partition("#")[0] for target in LINK.findall(prose("docs/README.md"))}
    pages = {path.name for path in (root / "docs").glob("*.md")} - {"README.md"}
    assert pages - listed == set()


def test_files_that_are_named_exist(page: str, root: Path, prose) -> None:
    """`tests/…`, `examples/…` and other paths of the repository in inline code."""
    tops = "benchmarks|examples|hf_detr_panoptic|tests|training_args"
    named = re.findall(rf"`((?:{tops})/[\w./-]+)(?:::(\w+))?`", prose(page))
    missing = [name for name, _ in named if not (root / name).exists()]
    missing += [
        f"{name}::{test}"
        for name, test in named
        if test and (root / name).is_file() and f"def {test}(" not in (root / name).read_text(encoding="utf-8")
    ]
    assert missing == []


def test_keys_that_are_named_exist(page: str, prose) -> None:
    """`stages.mask_head.lr_drop` and other keys of a recipe in inline code."""
    from hf_detr_panoptic.recipe import annotation_of, recipe_keys

    tops = "augmentation|data|losses|postprocess|push|size|stages"
    named = set(re.findall(rf"`((?:{tops})\.\w+(?:\.\w+)?)`", prose(page)))
    known = {str(key) for key in recipe_keys()}
    unknown = []
    for key in named:
        top, second, *last = key.split(".")
        if top != "stages":
            right = key in known
        elif second not in ("detection", "mask_head", "finetune", "STAGE"):
            right = False
        else:
            right = not last or annotation_of((top, "detection", last[0])) is not Any
        if not right:
            unknown.append(key)
    assert unknown == []


def test_flags_that_are_named_exist(page: str, prose) -> None:
    """`--leakage` and other flags in inline code: some command has each."""
    import argparse

    from hf_detr_panoptic.cli import COMMANDS, home_of
    from hf_detr_panoptic.recipe import recipe_keys, training_keys

    known = {"--help", "--version"} | {f"--{key.path[-1]}" for key in (*recipe_keys(), *training_keys())}
    for command in COMMANDS:
        parser = argparse.ArgumentParser()
        home, add_arguments, _ = home_of(command)
        getattr(home, add_arguments)(parser)
        known |= set(parser._option_string_actions)
    # Beyond ours: what a page says of launchers, and of the programs that people come from.
    foreign = re.search(r"<!-- flags of other programs: (.*?) -->", prose(page), flags=re.DOTALL)
    others = set(foreign[1].split()) if foreign else set()
    named = set(re.findall(r"`(--[a-z][\w-]*)", prose(page)))
    dotted = {flag for flag in named if flag.removeprefix("--") in ("stages", "data", "size", "losses", "postprocess")}
    assert named - known - others - dotted == set()
