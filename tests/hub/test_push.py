"""`push`: what goes up, what does not, and what a fresh machine gets back from the name alone."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from PIL import Image

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.errors import HubError
from hf_detr_panoptic.hub.push import finished_run, planned, published_recipe
from hf_detr_panoptic.hub.repository import Upload, without_private_paths
from hf_detr_panoptic.lock import LOCK
from hf_detr_panoptic.recipe import Recipe

if TYPE_CHECKING:
    from hub_server import HubServer

STAGES = {"detection": "1-detection", "mask_head": "2-mask_head", "finetune": "3-finetune", "main": "final"}
MODEL = {"config.json", "preprocessor_config.json", "model.safetensors", "recipe.yaml", "README.md"}
MODEL |= {"handler.py", "requirements.txt"}


def test_each_stage_has_its_branch_and_main_the_final_model(
    signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run), "anna/site"]) == 0
    for revision, folder in STAGES.items():
        files = signed_in.files("anna/site", revision)
        for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
            assert files[name] == (run / folder / name).read_bytes()
        assert b"class EndpointHandler" in files["handler.py"]
        assert json.loads(files["preprocessor_config.json"])["image_processor_type"] == "DetrImageProcessor"
    repository = signed_in.repository("anna/site")
    assert repository.private
    assert set(repository.branches) == set(STAGES)
    assert set(signed_in.files("anna/site", "detection")) == MODEL
    assert set(signed_in.files("anna/site")) >= MODEL | {"metrics.json", "results.csv"}
    assert "Next: hf-detr-panoptic predict anna/site" in capsys.readouterr().out


def test_nothing_of_this_machine_goes_up(signed_in: HubServer, run: Path) -> None:
    """Neither optimizer nor checkpoints, neither paths nor the token."""
    assert main(["push", str(run), "anna/site"]) == 0
    for revision in STAGES:
        files = signed_in.files("anna/site", revision)
        assert not [name for name in files if name.endswith((".bin", ".pt", ".pth")) or "checkpoint" in name]
        assert not {"complete.json", "trainer_state.json", "events.out.tfevents.1"} & set(files)
        for name, content in files.items():
            assert str(run).encode() not in content, name
            assert b"what only this machine needs" not in content, name
            assert signed_in.token.encode() not in content, name
        recipe = yaml.safe_load(files["recipe.yaml"])
        assert (recipe["model"], recipe["data"], recipe["output"], recipe["push"]) == ("start", "site", "site", None)
        Recipe.from_dict(recipe)  # whoever takes it can run it
    assert signed_in.leaks() == []


def test_main_changes_once_and_last(signed_in: HubServer, run: Path) -> None:
    assert main(["push", str(run), "anna/site"]) == 0
    assert [commit.title for commit in signed_in.repository("anna/site").history("main")] == [
        "The final model, after detection, mask_head, finetune",
        "initial commit",
    ]
    commits = [r.path.rpartition("/")[2] for r in signed_in.requests if "/commit/" in r.path]
    assert commits == ["detection", "mask_head", "finetune", "main"]


def test_what_is_there_is_not_sent_again(signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["push", str(run), "anna/site"]
    assert main(words) == 0
    assert len(signed_in.sent) == len(set(signed_in.sent)) == 3  # final/ is finetune's
    before = len(signed_in.requests)
    assert main(words) == 0
    assert len(signed_in.sent) == 3
    assert not [request for request in signed_in.requests[before:] if "/commit/" in request.path]
    assert capsys.readouterr().out.count("all of it is there already") == 4


def test_old_weights_go_and_what_a_person_added_stays(signed_in: HubServer, run: Path) -> None:
    old = {"config.json": b'{"model_type": "detr"}', "pytorch_model.bin": b"old", "notes.md": b"mine"}
    old |= {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}"}
    signed_in.add("anna/site", old, private=True)
    assert main(["push", str(run), "anna/site", "--final-only"]) == 0
    files = signed_in.files("anna/site")
    assert set(old) & set(files) == {"config.json", "notes.md"}
    assert files["config.json"] == (run / "final" / "config.json").read_bytes()
    assert set(signed_in.repository("anna/site").branches) == {"main"}


def test_a_branch_does_not_hold_what_main_holds(signed_in: HubServer, run: Path) -> None:
    signed_in.add("anna/site", {"config.json": b'{"model_type": "detr"}', "notes.md": b"mine"}, private=True)
    assert main(["push", str(run), "anna/site"]) == 0
    assert set(signed_in.files("anna/site", "detection")) == MODEL


def test_a_skipped_stage_has_no_branch(signed_in: HubServer, run: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["stages"]["detection"]["skip"] = True
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    shutil.rmtree(run / "1-detection")
    assert main(["push", str(run), "anna/site"]) == 0
    assert set(signed_in.repository("anna/site").branches) == {"mask_head", "finetune", "main"}


def test_a_refitted_model_goes_up_and_its_card_says_so(
    signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `refit: true` leaves a run: with a last stage of its own, that is in final/ too."""
    weights = "model.safetensors"
    shutil.copytree(run / "2-mask_head", run / "refit" / "3-finetune")
    shutil.copyfile(run / "2-mask_head" / weights, run / "final" / weights)
    path = run / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "refit": 9}))
    assert main(["push", str(run), "anna/site"]) == 0
    files = signed_in.files("anna/site")
    assert files[weights] == (run / "refit" / "3-finetune" / weights).read_bytes()
    assert signed_in.files("anna/site", "finetune")[weights] == (run / "3-finetune" / weights).read_bytes()
    assert "before all 9 photos were learnt from" in files["README.md"].decode()
    assert not any(name.startswith("refit") for name in files)
    shutil.copyfile(run / "3-finetune" / weights, run / "final" / weights)
    assert main(["push", str(run), "anna/site"]) == 2
    assert "final/ is not what refit/3-finetune/ ended with" in capsys.readouterr().err


def test_the_graph_for_transformers_js_goes_along(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    from hf_detr_panoptic.browser import verify

    asked: list[bool] = []

    def made(model: object, one_graph: bool = False) -> tuple[dict[str, bytes], dict[str, object], list[object]]:
        asked.append(one_graph)
        return {"onnx/model.onnx": b"graph"}, {}, []

    monkeypatch.setattr(verify, "verified_graphs", made)
    with planned(run, "anna/site", stages=False, onnx=True) as uploads:
        files = uploads[-1].files
    assert asked == [True]
    assert files["onnx/model.onnx"] == b"graph"
    before = json.loads((run / "final" / "config.json").read_text())
    assert json.loads(files["config.json"]) == {**before, "transformers.js_config": {"dtype": "fp32"}}
    card = files["README.md"].decode()
    assert "onnx/model.onnx" in card
    assert "stuff of one class in pieces" in card
    with planned(run, "anna/site", stages=False) as uploads:
        assert "onnx/model.onnx" not in uploads[-1].files
        assert "onnx/model.onnx" not in uploads[-1].files["README.md"].decode()
        # What lies there is of other weights.
        assert uploads[-1].outdated(["onnx/model.onnx", "onnx/mine.onnx"]) == ["onnx/model.onnx"]


def test_a_dry_run_asks_nobody(signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "anna/site", "--dry-run", "--metric", "anna/quality"]) == 0
    said = capsys.readouterr().out
    assert signed_in.requests == []
    heads = [line.rpartition(":")[0] for line in said.splitlines() if line.endswith(("kB", "MB"))]
    assert heads == [
        "space anna/quality",
        "anna/site, branch detection",
        "anna/site, branch mask_head",
        "anna/site, branch finetune",
        "anna/site",
    ]
    size = (run / "final" / "model.safetensors").stat().st_size / 1e6
    assert said.count(f"{size:.1f} MB  model.safetensors") == 4
    assert "optimizer" not in said


def test_a_public_push_of_the_final_model_alone(signed_in: HubServer, run: Path) -> None:
    assert main(["push", str(run), "site-office/site", "--public", "--final-only", "--license", "mit"]) == 0
    repository = signed_in.repository("site-office/site")
    assert not repository.private
    assert set(repository.branches) == {"main"}
    card = signed_in.files("site-office/site")["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"


def test_the_metric_alone(signed_in: HubServer) -> None:
    assert main(["push", "--metric", "anna/panoptic-quality"]) == 0
    files = signed_in.files("anna/panoptic-quality", kind="space")
    assert {"panoptic-quality.py", "counting.py", "annotations.py", "README.md"} <= set(files)
    assert main(["push", "--metric", "anna/panoptic-quality"]) == 0  # it knows its own again


def test_the_demo_comes_after_the_model(signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "anna/site", "--final-only", "--demo", "anna/site-demo"]) == 0
    files = signed_in.files("anna/site-demo", kind="space")
    assert "anna/site" in files["app.py"].decode()
    assert [name for name in files if name.startswith("hf_detr_panoptic-") and name.endswith(".whl")]
    assert yaml.safe_load(files["README.md"].decode().split("---")[1])["sdk"] == "gradio"
    commits = [request.path for request in signed_in.requests if "/commit/main" in request.path]
    assert commits == ["/api/models/anna/site/commit/main", "/api/spaces/anna/site-demo/commit/main"]
    assert "The Space needs a token to read a private model: set HF_TOKEN" in capsys.readouterr().out


def test_the_demo_as_a_page_with_photos_of_ones_own(
    signed_in: HubServer,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from hf_detr_panoptic.browser import export, web_runtime

    exported: list[Path] = []

    def as_graphs(model: Path, folder: Path) -> None:
        exported.append(model)
        folder.mkdir()
        for name in ("detector.onnx", "masks.onnx"):
            (folder / name).write_bytes(b"graph")
        for name in ("config.json", "preprocessor_config.json"):
            shutil.copy(model / name, folder)

    monkeypatch.setattr(export, "export", as_graphs)
    monkeypatch.setattr(web_runtime, "web_runtime", lambda: web_runtime.WebRuntime(b"script", b"wasm"))
    exif = Image.Exif()
    exif[0x010F] = "anna's camera"
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "anna's yard.jpg", exif=exif)
    words = ["push", str(run), "anna/site", "--final-only", "--demo", "anna/page", "--demo-kind", "static"]
    assert main([*words, "--examples", str(tmp_path / "anna's yard.jpg")]) == 0
    files = signed_in.files("anna/page", kind="space")
    assert {"index.html", "detector.onnx", "masks.onnx", "README.md", "examples/photo_1.jpg"} <= set(files)
    front = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (front["sdk"], front["app_file"]) == ("static", "index.html")
    assert front["custom_headers"]["cross-origin-embedder-policy"] == "require-corp"
    assert b"camera" not in files["examples/photo_1.jpg"]
    assert b'src="examples/photo_1.jpg"' in files["index.html"]
    assert exported == [run / "final"]
    assert "who may see the page may keep it" in capsys.readouterr().out
    assert main(words) == 0  # it knows its own again, and takes the photo away
    assert "examples/photo_1.jpg" not in signed_in.files("anna/page", kind="space")


def test_a_demo_shows_no_synthetic_photos(signed_in: HubServer, run: Path, tmp_path: Path) -> None:
    with planned(run, "anna/site", stages=False, demo="anna/demo") as uploads:
        assert not [name for name in uploads[-1].files if name.startswith("examples/")]
        assert '"--no-examples"' in uploads[-1].files["app.py"].decode()
    for number in range(13):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    with (
        pytest.raises(HubError, match="13 photos are too many"),
        planned(run, "anna/site", demo="anna/demo", examples=[tmp_path]),
    ):
        pass
    with pytest.raises(HubError, match="examples are of a demo"), planned(run, "anna/site", examples=[tmp_path]):
        pass


@pytest.mark.parametrize(
    ("path", "published"),
    [
        ("/srv/site/photos", "photos"),
        ("/srv/anna/here/data/photos", "data/photos"),
        ("/home/anna/photos", "photos"),
        ("/home/bob/x/marks.zip", "marks.zip"),
        ("/home/bob", "."),
        ("~/photos", "photos"),
        ("../anna/photos", "photos"),
        ("../../photos/a", "photos/a"),
        (r"C:\Users\Bob\photos", "photos"),
        (r"\\server\share\photos", "photos"),
        ("anna/detr", "anna/detr"),
        ("facebook/detr-resnet-50-panoptic", "facebook/detr-resnet-50-panoptic"),
        ("cosine", "cosine"),
    ],
)
def test_paths_of_a_recipe(path: str, published: str) -> None:
    data = {"data": {"images": path, "keep": [path], "merge": {"wall": [path]}}, "stages": [{"deepspeed": path}]}
    found = without_private_paths(data, Path("/srv/anna/here"), ["Anna", "root"])
    assert found["data"]["images"] == found["stages"][0]["deepspeed"] == published
    assert found["data"]["keep"] == found["data"]["merge"]["wall"] == [path]  # names of classes


def test_a_relative_path_that_is_there_loses_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "anna" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert without_private_paths("anna/photos", tmp_path, ["anna"]) == "photos"


@pytest.mark.parametrize(
    ("address", "published"),
    [
        ("https://anna:secret@host.org/site.zip", "https://host.org/site.zip"),
        ("git+ssh://token@host.org/site", "git+ssh://host.org/site"),
        ("https://host.org/site@2", "https://host.org/site@2"),
    ],
)
def test_nobody_signs_in_with_a_published_address(tmp_path: Path, address: str, published: str) -> None:
    assert without_private_paths({"images": [address]}, tmp_path, ["anna"]) == {"images": [published]}


@pytest.mark.parametrize("error", [KeyError, OSError])  # before Python 3.13, and since
def test_a_user_whom_the_system_does_not_know(
    error: type[Exception], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> None:
        raise error("getpwuid(): uid not found: 12345")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setenv("HOME", "/srv/anna")
    recipe = yaml.safe_load(published_recipe(finished_run(run).recipe.changed(data="../anna/photos"), None))
    assert recipe["data"] == "photos"  # the home folder still tells a name


def test_what_a_new_upload_makes_outdated() -> None:
    upload = Upload("anna/data", {"data/train-00000-of-00001.parquet": b""}, "", replaces=("data/*.parquet",))
    there = ["data/train-00000-of-00002.parquet", "data/train-00000-of-00001.parquet", "data/notes.md", "README.md"]
    assert upload.outdated(there) == ["data/train-00000-of-00002.parquet"]


def test_what_a_killed_push_left_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("hf-detr-panoptic-dead", "hf-detr-panoptic-alive", "hf-detr-panoptic-other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.jpg").touch()
    (tmp_path / "hf-detr-panoptic-dead" / LOCK).touch()
    (tmp_path / "hf-detr-panoptic-alive" / LOCK).write_text('{"process": 1, "host": "far-away", "since": "now"}')
    with planned(None, None, metric="ada/metric"):
        assert sum((path / LOCK).exists() for path in tmp_path.iterdir()) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"hf-detr-panoptic-alive", "hf-detr-panoptic-other"}
