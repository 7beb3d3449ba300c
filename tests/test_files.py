"""Files: whole or not there, JSON that says where it is broken, and no home directory in what is handed on."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from hf_detr_panoptic import files
from hf_detr_panoptic.errors import DatasetError, RecipeError
from hf_detr_panoptic.files import (
    parse_json,
    read_csv,
    read_json,
    read_value,
    read_yaml,
    replacing,
    shown_path,
    without_paths,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_old_content_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.bin"
    write_bytes(path, b"old")
    with replacing(path) as part:
        part.write_bytes(b"n")
        assert path.read_bytes() == b"old"
        assert part.parent == path.parent  # else it could not be renamed over it
        part.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [OSError("no room"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fails() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fails()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".file.txt.part").write_text("half of something, and long")
    write_text(tmp_path / "file.txt", "whole")
    assert (tmp_path / "file.txt").read_bytes() == b"whole"
    assert names(tmp_path) == ["file.txt"]


def test_several_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    with replacing(path, shared=True) as one, replacing(path, shared=True) as other:
        assert one != other
        one.write_bytes(b"same")
        other.write_bytes(b"same")
        assert {file.suffix for file in tmp_path.iterdir()} == {".part"}
    assert names(tmp_path) == ["shared"]


def test_json_and_back(tmp_path: Path) -> None:
    content = {"ö": [1, None, 0.5]}
    for durable in (False, True):
        write_json(tmp_path / "a.json", content, indent=2, durable=durable)
        assert (tmp_path / "a.json").read_bytes() == (json.dumps(content, indent=2) + "\n").encode()
        assert read_json(tmp_path / "a.json") == content
    write_json(tmp_path / "a.json", content, indent=None, ascii_only=False)
    assert (tmp_path / "a.json").read_bytes() == '{"ö": [1, null, 0.5]}\n'.encode()


def test_a_name_that_is_no_utf8_comes_back(tmp_path: Path) -> None:
    name = b"m\xfcll.jpg".decode("utf-8", "surrogateescape")
    write_json(tmp_path / "a.json", {name: 1}, ascii_only=False)
    assert b"m\xfcll.jpg" in (tmp_path / "a.json").read_bytes()
    assert parse_json((tmp_path / "a.json").read_bytes(), errors="surrogateescape") == {name: 1}
    write_csv(tmp_path / "a.csv", ["photo"], [{"photo": name}])
    assert read_csv(tmp_path / "a.csv") == [{"photo": name}]


def test_broken_json_says_file_line_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1,\n "b": }')
    with pytest.raises(DatasetError, match=r"a\.json: is not JSON \(.*line 2 column 7.*\)\. Restore it\.$"):
        read_json(path, DatasetError, "Restore it.")
    with pytest.raises(DatasetError, match=r"none\.json: cannot be read \(No such file"):
        read_json(tmp_path / "none.json", DatasetError)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff{", b"", b"{'a': 1}"])
def test_whatever_is_wrong_with_json_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        parse_json(content)


def test_what_json_does_not_know_is_read_unless_it_must_be_finite() -> None:
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]
    assert parse_json(b"[Infinity]") == [float("inf")]
    for word in (b"NaN", b"Infinity", b"-Infinity"):
        with pytest.raises(ValueError, match="is not a number that JSON knows"):
            parse_json(b"[%s]" % word, finite=True)


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.csv"
    assert read_csv(path) == []
    write_csv(path, ["name", "pq"], [{"name": "steel, bent", "pq": 1}, {"name": "sky"}])
    assert path.read_bytes() == b'name,pq\r\n"steel, bent",1\r\nsky,\r\n'
    write_csv(path, ["name"], ({"name": name} for name in "ab"), newline="\n")
    assert path.read_bytes() == b"name\na\nb\n"
    assert read_csv(path) == [{"name": "a"}, {"name": "b"}]


def test_no_home_directory_goes_with_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path("runs/a") == shown_path(tmp_path / "runs" / "a") == "runs/a"
    assert shown_path("/home/somebody/site") == "site"
    content = {"data": "/home/somebody/site", "deep": [{"photos": "C:\\Users\\me\\photos"}, "~/x/y", "data/site", 3]}
    assert without_paths(content) == {"data": "…/site", "deep": [{"photos": "…/photos"}, "…/y", "data/site", 3]}


DOUBLED = "{1}: &{1} {{p: *{0}, q: *{0}}}\n"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("seed: 2001-13-45", "a value cannot be read .*month"),
        ("seed: !!int x", "a value cannot be read"),
        ("seed: !!timestamp x", "a value cannot be read"),
        ("a: &a {x: 1}\n" + "".join(DOUBLED.format(*two) for two in pairwise("abcdefghijklmnopqrstuvw")), "stand for"),
        ("a: &a [*a]", "anchors stand for too much"),
        ("seed: 1\nseed: 2", "stands twice"),
    ],
)
def test_yaml_that_python_stumbles_over(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=what) as raised:
        read_yaml(tmp_path / "r.yaml")
    assert "r.yaml" in str(raised.value)
    assert read_value("2001-13-45") == "2001-13-45"


def test_a_few_bytes_that_would_be_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MOST_THINGS", 1000)
    assert parse_json(b"[" + b"{}," * 998 + b"{}]")[-1] == {}
    with pytest.raises(ValueError, match="more than 1,000 objects"):
        parse_json(b"[" + b"{}," * 1000 + b"{}]")
