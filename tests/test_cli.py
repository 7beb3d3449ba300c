import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_detr_panoptic import __version__
from hf_detr_panoptic.cli import COMMANDS, _Stream, main

HEAVY = ("torch", "transformers", "datasets", "timm", "accelerate", "evaluate", "scipy", "pycocotools")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf-detr-panoptic {__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {command} " in said for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["docter"], "unknown command docter. Did you mean 'doctor'?"),
        (["--versoin"], "unknown flag --versoin. Did you mean '--version'?"),
    ],
)
def test_an_unknown_command_is_answered(words: list[str], answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["doctor", "--ofline"], "unknown flag --ofline. Did you mean '--offline'?"),
        (["doctor", "--off"], "unknown flag --off. Did you mean '--offline'?"),
        (["evaluate", "--device", "cuda"], "unknown flag --device. See hf-detr-panoptic evaluate --help."),
        (["doctor", "here"], "unexpected here. Quote it, or see hf-detr-panoptic doctor --help."),
    ],
)
def test_an_unknown_flag_is_answered(words: list[str], answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert answer in capsys.readouterr().err


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["recipe", "laptop", "--out", str(tmp_path / "file" / "mine.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("hf-detr-panoptic recipe: ")
    assert str(tmp_path / "file") in said
    assert "the system refuses" in said


@pytest.mark.parametrize("streams", [("stdout",), ("stdout", "stderr")])
def test_where_nobody_listens_the_work_is_done(streams: tuple[str, ...], tmp_path: Path) -> None:
    """`… | head`: the reader has gone before the first word."""
    reading, writing = os.pipe()
    os.close(reading)
    code = (
        "import sys\nfrom hf_detr_panoptic import cli, recipe_to_edit\nwork = recipe_to_edit.main\n"
        "def main(args):\n    print('beginning', flush=True)\n    print('at work', file=sys.stderr, flush=True)\n"
        "    return work(args)\n"
        "recipe_to_edit.main = main\nsys.exit(cli.main(['recipe', 'laptop', '--out', 'mine.yaml']))"
    )
    given = {"stderr": subprocess.PIPE} | dict.fromkeys(streams, writing)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, **given)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, None if "stderr" in streams else "at work\n")
    assert "detection" in (tmp_path / "mine.yaml").read_text()


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)], ids=lambda words: " ".join(words))
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    """What makes `--help` quick: it is the imports that take seconds."""
    code = (
        "import sys\n"
        "from hf_detr_panoptic.cli import main\n"
        f"try: main({[*words, '--help']!r})\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "heavy: []"
    assert "usage: hf-detr-panoptic" in said


def test_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, hf_detr_panoptic; print([name for name in {(*HEAVY, 'numpy')!r} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"


def test_what_the_system_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A disk that is full as a report is written, and a reader of the output that has gone."""
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "q.json"))
    for error, status in ((full, 2), (BrokenPipeError(), 141)):

        def fails(args: object, error: OSError = error) -> int:
            raise error

        monkeypatch.setattr("hf_detr_panoptic.doctor.main", fails)
        assert main(["doctor"]) == status
    assert (
        f"hf-detr-panoptic doctor: {tmp_path / 'q.json'}: the system refuses (No space left" in capsys.readouterr().err
    )


def test_what_a_stream_has_no_letters_for_is_escaped() -> None:
    """Half a surrogate pair in a stranger's file; a terminal without "×"."""
    for encoding, text, expected in (
        ("utf-8", "a × \ud800", b"a \xc3\x97 \\ud800"),
        ("ascii", "4×4", b"4\\xd74"),
    ):
        behind = io.BytesIO()
        stream = _Stream(io.TextIOWrapper(behind, encoding=encoding, write_through=True))
        assert stream.write(text) == len(text)
        assert behind.getvalue() == expected
