"""Every documented command: run where a CPU does it within seconds, parsed where not; the pages say which."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_detr_panoptic import cli
from hf_detr_panoptic.errors import HfDetrPanopticError
from hf_detr_panoptic.recipe import Recipe, prepare_settings
from hf_detr_panoptic.settings import Prepare

RUN, PARSED = "# run by our tests", "# parsed by our tests"
PREPARING = ("prepare", "autolabel", "overlay")


def test_the_page_says_what_is_run(shell_block) -> None:
    if shell_block.page.startswith("docs/") or shell_block.marker:
        assert shell_block.marker in (RUN, PARSED)


def test_every_word_is_understood(shell_block, root: Path, tmp_path: Path, monkeypatch, shown_files) -> None:
    shown_files(tmp_path, shell_block.page)
    monkeypatch.chdir(tmp_path)
    for words in shell_block.ours:
        parse(words, root, monkeypatch)


def parse(words: list[str], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises, or exits with 2, where a word means nothing."""
    program, rest = words[0], words[1:]
    if program == "make":
        makefile = (root / "Makefile").read_text()
        variables = {word.partition("=")[0] for word in rest if "=" in word}
        assert variables <= set(re.findall(r"\$\(or \$\((\w+)\)", makefile))
        targets = re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif program == "hf-detr-panoptic":
        _parse_ours(rest, monkeypatch)
    elif program == "python":
        _parse_script(root, rest, monkeypatch)
    elif program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert rest[0] == "launch"
        given = launch_command_parser().parse_args(rest[1:])
        if given.config_file:
            assert "distributed_type" in yaml.safe_load((root / given.config_file).read_text())
        _parse_script(root, [given.training_script, *given.training_script_args], monkeypatch)
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(rest)
        if given.module:
            assert given.training_script == "hf_detr_panoptic.cli"
            _parse_ours(given.training_script_args, monkeypatch)
        else:
            _parse_script(root, [given.training_script, *given.training_script_args], monkeypatch)


def _parse_script(root: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script = root / words[0]
    compile(script.read_text(encoding="utf-8"), words[0], "exec")
    if script.name == "train.py" and script.parent.name == "examples" and words[1:]:
        _parse_ours(["train", *words[1:]], monkeypatch)


def _parse_ours(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0].startswith("-"):
        assert cli.main(words) == 0
        return
    if words[0] == "train" and "--help" not in words:
        with monkeypatch.context() as patch:
            patch.setattr(Recipe, "check_files", lambda recipe: None)  # its files are the reader's
            patch.setenv("WORLD_SIZE", "1")
            status = cli.main([*words, "--dry-run"])
        assert status == 0, f"not understood: {' '.join(words)}"
        return
    home, _, run = cli.home_of(words[0])
    seen: list[argparse.Namespace] = []

    def note(args: argparse.Namespace) -> int:
        if words[0] in PREPARING:
            prepare_settings(args)
        seen.append(args)
        return 0

    with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(home, run, note)
        if cli.main(words) != 0:
            seen.clear()
    assert seen or "--help" in words, f"not understood: {' '.join(words)}"


def test_parsing_finds_what_is_wrong(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself can fail."""
    for line in (
        "hf-detr-panoptic prepare --images photos --out x --treshold 0.9",
        "hf-detr-panoptic prepare --images photos --out x --scheme cooc",
        "hf-detr-panoptic chek data/site",
        "hf-detr-panoptic train construction --stages.mask_hed.lr_drop 3",
        "accelerate launch examples/train.py no-such-recipe",
        "accelerate launch --config_file training_args/accelerate/none.yaml examples/train.py quick",
        "torchrun --nproc 2 -m hf_detr_panoptic.cli evaluate --modl x",
        "python examples/none.py",
        "make tests",
        "make fuzz CASE=200",
    ):
        with pytest.raises((AssertionError, SystemExit, KeyError, OSError)):
            parse(line.split(), root, monkeypatch)


def test_yaml_is_understood(yaml_block, tmp_path: Path) -> None:
    content = yaml.safe_load(yaml_block.text)
    if "distributed_type" in content:
        return
    if "images" in content:
        Prepare.read(content)
        return
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml_block.text + ("" if "data" in content else "\ndata: data/site\n"), encoding="utf-8")
    Recipe.load(path)


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(
    page_that_runs: str, scratch: Path, blocks, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands and Python of one page in the order of the page, in one folder; what is printed is what is shown."""
    datasets = importlib.import_module("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", scratch.parent / "cache")
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        if block.page != page_that_runs or block.marker != RUN:
            continue
        if block.language == "bash":
            assert block.ours, f"{block}: nothing here is ours to run"
            said = "".join(_run(words, block) for words in block.commands)
        else:
            assert block.language == "python", f"{block}: {block.language} is not run"
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                exec(compile(block.text, str(block), "exec"), names)
            said = stream.getvalue()
        if block.prints is not None:
            assert _trimmed(said) == _trimmed(block.prints), f"{block} prints something else"


def _run(words: list[str], block: object) -> str:
    if words[0] == "hf-detr-panoptic":
        with contextlib.redirect_stdout(io.StringIO()) as stream:
            try:
                status = cli.main(words[1:])
            except HfDetrPanopticError as error:
                raise AssertionError(f"{block}: {' '.join(words)}: {error}") from error
        assert status == 0, f"{block}: {' '.join(words)} ended with {status}"
        return stream.getvalue()
    if words[0] == "python":
        command = [sys.executable, *words[1:]]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert words[0] in ("unzip", "ls", "mkdir", "cp"), f"{block}: {words[0]} is not run here"
    return subprocess.run([str(shutil.which(words[0])), *words[1:]], check=True, capture_output=True, text=True).stdout


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
