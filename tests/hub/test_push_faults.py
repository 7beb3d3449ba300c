"""What a push says when it cannot, what it leaves on the Hub then, and how it goes on."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.hub import repository

if TYPE_CHECKING:
    from hub_server import HubServer

Spoil = Callable[[Path], object]


def refused(words: list[str], capsys: pytest.CaptureFixture[str], hub: HubServer) -> str:
    """What the command says; whatever it is, one line without the token."""
    assert main(["push", *words]) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("hf-detr-panoptic push: ")]
    assert len(lines) == 1
    assert "Traceback" not in said.err
    for token in (hub.token, hub.reader):
        assert token not in said.out + said.err
    assert hub.leaks() == []
    return lines[0]


@pytest.mark.parametrize(
    ("token", "answer"),
    [
        (None, "nobody is signed in to the Hub: there is no token. Run `hf auth login`"),
        ("hf_" + "Wrong" * 7, "the Hub does not accept the token. Run `hf auth login`"),
        ("reader", "the token of anna may only read"),
    ],
)
def test_tokens(
    token: str | None,
    answer: str,
    signed_in: HubServer,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", signed_in.reader if token == "reader" else token)
    assert answer in refused([str(run), "anna/site"], capsys, signed_in)
    assert signed_in.repositories == {}


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("bob/site", "bob/site: anna may not write there. Push to a repository of anna or site-office"),
        ("site", "'site' is no name of a repository: it does not say whose. Write user/site."),
        ("https://huggingface.co/anna/site", "is no name of a repository"),
        ("anna/si te", "is no name of a repository"),
        ("anna/" + "x" * 100, "is no name of a repository"),
        ("anna/../site", "is no name of a repository"),
        ("", "is no name of a repository"),
        ("anna/bert", "anna/bert: the name is taken: the repository holds a bert model. Choose another name."),
        ("anna/gguf", "anna/gguf: the name is taken: the repository holds something else, such as weights.gguf"),
        ("anna/open", "anna/open: the repository is public, and this push is private. Push with `--public`"),
    ],
)
def test_names(name: str, answer: str, signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signed_in.add("anna/bert", {"config.json": b'{"model_type": "bert"}'}, private=True)
    signed_in.add("anna/gguf", {"weights.gguf": b"\0"}, private=True)
    signed_in.add("anna/open", {"config.json": b'{"model_type": "detr"}'})
    before = {place: dict(found.branches) for place, found in signed_in.repositories.items()}
    assert answer in refused([str(run), name], capsys, signed_in)
    assert {place: found.branches for place, found in signed_in.repositories.items()} == before


def test_names_of_datasets_and_spaces(signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signed_in.add("anna/texts", {"data/train.csv": b"a"}, kind="dataset", private=True)
    signed_in.add("anna/game", {"app.py": b"a"}, kind="space", private=True)
    said = refused(["--metric", "anna/game"], capsys, signed_in)
    assert "space anna/game: the name is taken" in said
    same = ["--metric", "anna/x", "--demo", "anna/x", str(run), "anna/site"]
    assert "two things would go to one repository" in refused(same, capsys, signed_in)
    assert ("model", "anna/site") not in signed_in.repositories  # what is refused last refuses all


def test_a_name_taken_by_what_cannot_be_seen(
    signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_in.break_at(1, 409, path="/api/repos/create")
    said = refused([str(run), "anna/site"], capsys, signed_in)
    assert "anna/site: the name is taken, by a repository that this account does not see" in said


@pytest.mark.parametrize(
    ("spoil", "answer"),
    [
        (lambda run: shutil.rmtree(run), "the run is not there"),
        (lambda run: (shutil.rmtree(run), run.write_text("")), "the run is a file"),
        (lambda run: (run / "recipe.yaml").unlink(), "this is not a run's folder: there is no recipe.yaml"),
        (lambda run: (run / "recipe.yaml").write_text("data: [\n"), "this is not YAML"),
        (lambda run: shutil.rmtree(run / "final"), "the run is incomplete: there is no final/"),
        (lambda run: (run / "3-finetune" / "complete.json").unlink(), "the stage finetune is not finished"),
        (lambda run: (run / "3-finetune" / "complete.json").write_text("{"), "complete.json: is damaged"),
        (lambda run: shutil.rmtree(run / "2-mask_head"), "the stage mask_head has not begun"),
        (lambda run: (run / "final" / "model.safetensors").unlink(), "there are no weights"),
        (lambda run: (run / "1-detection" / "config.json").unlink(), "there is no config.json"),
        (lambda run: (run / "final" / "preprocessor_config.json").unlink(), "there is no preprocessor_config.json"),
        (lambda run: cut(run / "final" / "model.safetensors"), "the weights are damaged or cut off"),
        (lambda run: cut(run / "1-detection" / "model.safetensors", 4), "the weights are damaged or cut off"),
        (lambda run: stale(run), "final/ is not what 3-finetune/ ended with"),
        (lambda run: linked(run / "final" / "config.json"), "the file lies outside of the run"),
        (lambda run: linked(run / "results.csv"), "results.csv: the file lies outside of the run"),
        (lambda run: linked(run / "metrics.json"), "metrics.json: the file lies outside of the run"),
        (lambda run: secret(run / "metrics.json"), "metrics.json: a token of the Hub stands in it"),
    ],
)
def test_folders(
    spoil: Spoil, answer: str, signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(run)
    said = refused([str(run), "anna/site"], capsys, signed_in)
    assert answer in said
    assert signed_in.repositories == {}


def cut(path: Path, size: int = 5000) -> None:
    path.write_bytes(path.read_bytes()[:size])


def stale(run: Path) -> None:
    shutil.copyfile(run / "1-detection" / "model.safetensors", run / "final" / "model.safetensors")


def linked(path: Path) -> None:
    elsewhere = path.parents[2 if path.parent.name == "final" else 1] / "elsewhere.json"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def secret(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "note": "hf_" + "Secret1" * 5}))


def test_a_folder_of_the_run(signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused([str(run / "final"), "anna/site"], capsys, signed_in)
    assert f"That is one of its folders: give {run}" in said


def test_half_a_command(signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to push is named" in refused([], capsys, signed_in)
    assert "a run and a name go together" in refused([str(run)], capsys, signed_in)
    assert "a demo shows a model" in refused(["--demo", "anna/demo"], capsys, signed_in)
    assert "the dataset is not there" in refused(["--data", "nowhere", "anna/data"], capsys, signed_in)
    assert signed_in.requests == []


def test_offline(
    signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused([str(run), "anna/site"], capsys, signed_in)
    assert "the Hub is not asked, because HF_HUB_OFFLINE is set. Unset it to push" in said
    assert signed_in.requests == []


def test_no_network(
    signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    said = refused([str(run), "anna/site"], capsys, signed_in)
    assert "the Hub cannot be reached at http://127.0.0.1:1. Look at the network" in said


def test_a_full_disk(
    signed_in: HubServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "metric.py")

    monkeypatch.setattr("hf_detr_panoptic.hub.push.write_bytes", full)
    said = refused(["--metric", "anna/quality"], capsys, signed_in)
    assert "the disk is full. Make room" in said
    assert signed_in.requests == []


def test_a_licence_that_the_hub_does_not_know(
    signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused([str(run), "anna/site", "--license", "gpl-for-dogs"], capsys, signed_in)
    assert "licen" in said
    assert not signed_in.sent


AT_THE_LAST_COMMIT = {
    401: "the Hub does not accept the token",
    403: "anna may not write there",
    404: "the repository or its branch is gone",
    409: "somebody else changed the repository meanwhile",
    412: "somebody else changed the repository meanwhile",
    413: "the Hub refuses this (413: the Hub says 413)",
    429: "the Hub asks to wait: too many requests",
    500: "the Hub has a problem of its own (500)",
    503: "the Hub has a problem of its own (503)",
}


@pytest.mark.parametrize(
    ("status", "path"),
    [*((status, "/commit/main") for status in AT_THE_LAST_COMMIT), (403, "/_lfs/"), (500, "/_lfs/")],
)
def test_answers_that_are_not_yes(
    status: int, path: str, signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the last commit, and while a large file is sent: main stays as it was, and the same command completes."""
    signed_in.break_at(1, status, path=path)
    words = [str(run), "anna/site"]
    assert AT_THE_LAST_COMMIT[status] in refused(words, capsys, signed_in)
    assert signed_in.files("anna/site") == {}
    signed_in.heal()
    assert main(["push", *words]) == 0
    assert len(signed_in.sent) == len(set(signed_in.sent)) == 3


def test_one_bad_moment_is_waited_out(signed_in: HubServer, run: Path) -> None:
    """429 and 500 while a file is sent, and a connection that drops once: the client tries again by itself."""
    for number, what in ((1, 429), (3, 500), (5, "drop")):
        signed_in.break_at(number, what, lasting=False, method="PUT")
    assert main(["push", str(run), "anna/site"]) == 0
    assert sum(fault.hits for fault in signed_in.faults) == 3
    assert len(signed_in.sent) == len(set(signed_in.sent)) == 3


def test_a_hub_that_never_answers(
    signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "PATIENCE_S", 0.2)
    for path in ("/api/whoami", "/commit/detection", "/_lfs/"):
        signed_in.heal()
        signed_in.break_at(1, "silent", path=path)
        assert "the connection to the Hub broke (" in refused([str(run), "anna/site"], capsys, signed_in)


def test_two_push_at_once(signed_in: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that came between looking and sending is not overwritten."""
    from hf_detr_panoptic.errors import HubError
    from hf_detr_panoptic.hub.repository import Upload

    hub = repository.Hub()
    hub.sign_in()
    upload = Upload("anna/site", {"config.json": b"{}"}, "mine")
    hub.make_ready([upload], private=True)
    other = signed_in.repository("anna/site")
    outdated = Upload.outdated

    def meanwhile(self: Upload, there: object) -> list[str]:
        other.commit("main", other.at("main").files, "somebody's")
        return outdated(self, there)

    monkeypatch.setattr(Upload, "outdated", meanwhile)
    with pytest.raises(HubError, match="somebody else changed the repository meanwhile"):
        hub.send(upload)
    assert [commit.title for commit in other.history("main")] == ["somebody's", "initial commit"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["drop", "lost"])
@pytest.mark.parametrize("point", [2, 5, 8, 10, 12, 15, 19, 22, 26, 30])
def test_a_push_broken_anywhere_goes_on(
    point: int, what: str, signed_in: HubServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network goes at a request and stays away; with "lost" the Hub did what was asked and could not say so."""
    words = [str(run), "anna/site"]
    fault = signed_in.break_at(point, what)
    said = refused(words, capsys, signed_in)
    assert "the connection to the Hub broke" in said
    assert fault.hits >= 1
    main_before = signed_in.files("anna/site") if ("model", "anna/site") in signed_in.repositories else {}
    assert main_before == {} or what == "lost"
    there = set(signed_in.sent)
    signed_in.heal()
    assert main(["push", *words]) == 0
    expected = {path.name for path in (run / "final").iterdir()} | {"README.md", "handler.py", "recipe.yaml"}
    assert set(signed_in.files("anna/site")) >= expected
    for revision, folder in {"detection": "1-detection", "mask_head": "2-mask_head", "finetune": "3-finetune"}.items():
        weights = signed_in.files("anna/site", revision)["model.safetensors"]
        assert weights == (run / folder / "model.safetensors").read_bytes()
    assert len(signed_in.sent) == 3  # once each, before the break or after it
    assert there <= set(signed_in.sent)
    commits = [commit.title for commit in signed_in.repository("anna/site").history("main")]
    assert len(commits) == 2  # the Hub's own first, and all of ours


@pytest.mark.slow
def test_a_dataset_broken_in_the_middle_goes_on(
    signed_in: HubServer,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of two files came in whole: it is not sent again, and no half of the data shows on main."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    words = ["--data", str(dataset), "anna/data"]
    signed_in.break_at(2, method="PUT")
    assert "the connection to the Hub broke" in refused(words, capsys, signed_in)
    assert len(signed_in.sent) == 1
    assert signed_in.files("anna/data", kind="dataset") == {}
    signed_in.heal()
    assert main(["push", *words]) == 0
    assert len(signed_in.sent) == len(set(signed_in.sent)) == 2
    assert len([name for name in signed_in.files("anna/data", kind="dataset") if name.endswith(".parquet")]) == 2
