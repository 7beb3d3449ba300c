"""The demo Space: files that stand on their own, with the package in a wheel that pip and Python both take."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from hf_detr_panoptic import __version__
from hf_detr_panoptic.errors import HubError
from hf_detr_panoptic.hub import space
from hf_detr_panoptic.hub.space import space_files

WHEEL = f"hf_detr_panoptic-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def files():
    return space_files("user/site-detr", 'My "site": 100 %', {"a.jpg": b"photo"})


def test_what_is_there(files):
    assert set(files) == {"README.md", "app.py", "requirements.txt", WHEEL, "examples/a.jpg"}
    assert files["examples/a.jpg"] == b"photo"


def test_the_front_matter_is_what_a_space_is_configured_by(files):
    front = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert front["title"] == 'My "site": 100 %'
    assert (front["sdk"], front["app_file"]) == ("gradio", "app.py")
    assert re.fullmatch(r"\d+\.\d+\.\d+", front["sdk_version"])
    assert front["python_version"] == "3.11"
    assert front["models"] == ["user/site-detr"]


def test_the_requirements_are_the_packages_own(files, root):
    wanted = {line.split(">")[0] for line in files["requirements.txt"].decode().split()}
    declared = re.search(r"\ndependencies = \[(.*?)\]", (root / "pyproject.toml").read_text(), re.DOTALL)
    assert wanted == set(re.findall(r'"([\w-]+)>', declared[1]))


def test_the_script_calls_the_app(files):
    lines = files["app.py"].decode().splitlines()
    assert len(lines) == 3
    assert lines[2] == 'sys.exit(main(["app", "user/site-detr", "examples", "--title", "My \\"site\\": 100 %"]))'
    without = space_files("user/site-detr", "t")["app.py"].decode()
    assert '"examples"' not in without


def test_the_example_calls_it_as_a_space_does(root):
    code = [line for line in (root / "examples" / "space" / "app.py").read_text().splitlines() if line[:1] not in "#"]
    assert [line for line in code if line][:2] == ["import sys", "from hf_detr_panoptic.cli import main"]
    assert re.fullmatch(r'sys\.exit\(main\(\["app", "[\w/-]+", "--title", ".+"\]\)\)', code[-1])


def test_equal_packages_are_equal_bytes(files):
    assert space_files("user/site-detr", "t")[WHEEL] == files[WHEEL]


def test_nothing_else_of_a_checkout_goes_into_the_wheel(tmp_path, monkeypatch):
    package = tmp_path / "hf_detr_panoptic"
    for name in (
        "__init__.py",
        "hub/a.py",
        "hub/a.j2",
        ".secret.py",
        "__pycache__/a.py",
        "notes.ipynb",
        "hub/token.txt",
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x")
    (tmp_path / "training_args").mkdir()
    (tmp_path / "training_args" / "mine.yaml").write_text("y")
    monkeypatch.setattr(space, "_home", lambda: package)
    assert sorted(name for name, _ in space._package_files()) == [
        "hf_detr_panoptic/__init__.py",
        "hf_detr_panoptic/hub/a.j2",
        "hf_detr_panoptic/hub/a.py",
        "hf_detr_panoptic/training_args/mine.yaml",
    ]


@pytest.mark.parametrize(
    ("name", "photo"), [("site", "a.jpg"), ("a/b/c", "a.jpg"), ("u/m", "../a.jpg"), ("u/m", ".a")]
)
def test_what_cannot_be_a_space(name, photo):
    with pytest.raises(HubError):
        space_files(name, "t", {photo: b""})


def test_a_package_that_nobody_installed_is_one_clear_error(monkeypatch):
    def missing(name):
        raise space.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(space.metadata, "requires", missing)
    with pytest.raises(HubError, match="nobody installed"):
        space_files("user/site-detr", "t")


@pytest.mark.slow
def test_the_wheel_is_the_one_that_setuptools_builds(files, root, tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv*", "build", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(root, source, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, cwd=tmp_path)

    def contents(wheel):
        archive = zipfile.ZipFile(wheel)
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}

    ours, theirs = contents(io.BytesIO(files[WHEEL])), contents(tmp_path / WHEEL)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []

    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / WHEEL).write_bytes(files[WHEEL])
    target = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, tmp_path / "ours" / WHEEL], check=True)
    code = (
        "import hf_detr_panoptic.cli as c, importlib.metadata as m; print(c.__file__, m.version('hf-detr-panoptic'))"
    )
    environment = os.environ | {"PYTHONPATH": str(target)}
    run = [sys.executable, "-P", "-c", code]
    said = subprocess.run(
        run, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.split()
    assert said == [str(target / "hf_detr_panoptic" / "cli.py"), __version__]


@pytest.mark.slow
def test_the_pushed_script_runs_from_its_wheel_alone(files, tmp_path):
    """The command's own answer to a model that is not there shows that its code came out of the wheel."""
    for name in ("app.py", WHEEL):
        (tmp_path / name).write_bytes(files[name])
    (tmp_path / "examples").mkdir()
    (tmp_path / "app.py").write_bytes(
        files["app.py"].replace(
            b"sys.exit(main(", b"import hf_detr_panoptic.app as a; print(a.__file__); sys.exit(main("
        )
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = [sys.executable, "app.py"]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert Path(done.stdout.strip()) == Path(WHEEL) / "hf_detr_panoptic" / "app.py"
    assert "hf-detr-panoptic app: " in done.stderr
    assert "examples" in done.stderr  # the folder holds no photo
