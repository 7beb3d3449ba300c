"""The page as a file: what it carries, what it may ask for, where its runtime comes from."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from hf_detr_panoptic import Category, LabelSpace
from hf_detr_panoptic.browser import page, run_page, web_runtime
from hf_detr_panoptic.browser.page import one_file, page_or_how, served_files
from hf_detr_panoptic.browser.web_runtime import SCRIPT, WASM, NoRuntimeError, WebRuntime, at_hand
from hf_detr_panoptic.preprocess import Preprocess

HOSTILE = "</script><script>alert(1)</script>"
RUNTIME = WebRuntime(b"script", b"wasm")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "exported"
    folder.mkdir()
    for name in page.GRAPHS:
        (folder / name).write_bytes(b"graph")
    (folder / "config.json").write_text(json.dumps(LabelSpace([Category(HOSTILE, True)]).to_config()))
    Preprocess(96, 128).to_image_processor().save_pretrained(folder)
    return folder


def test_names_are_text_and_nothing_may_be_asked_for(exported: Path) -> None:
    html = one_file(exported, RUNTIME, "a <b> title").decode()
    assert "a &lt;b&gt; title" in html
    assert HOSTILE not in html
    settings = json.loads(re.search(r'id="settings">(.*?)</script>', html)[1])
    assert settings["space"][0]["name"] == HOSTILE
    assert settings["preprocess"]["shortest_edge"] == 96
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src" not in policy
    assert not re.search(r"https?:|'unsafe-inline'|'unsafe-eval'|\*", policy)
    for tag, kind in (("script", r'<script type="module">'), ("style", "<style>")):
        content = re.search(f"{kind}(.*?)</{tag}>", html, re.DOTALL)[1]
        digest = b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"^(import|export) ", html, re.MULTILINE)
    assert "Copyright (c) Microsoft Corporation" in html


def test_served_it_asks_its_own_folder(exported: Path) -> None:
    files = served_files(exported, RUNTIME, examples=['examples/"a".jpg'])
    assert set(files) == {"index.html", f"{SCRIPT}.gz", f"{WASM}.gz", "detector.onnx", "masks.onnx"}
    html = files["index.html"].decode()
    assert "connect-src 'self'; " in html
    assert 'src="examples/&#34;a&#34;.jpg"' in html


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An archive of the registry's shape with its own digests, and an empty cache."""
    stream = io.BytesIO()
    contents = {SCRIPT: b"a script", WASM: b"a binary"}
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    digest = b64encode(hashlib.sha512(stream.getvalue()).digest()).decode()
    monkeypatch.setattr(web_runtime, "INTEGRITY", f"sha512-{digest}")
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(web_runtime, "_DIGESTS", digests)
    monkeypatch.setenv("HF_DETR_PANOPTIC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "runtime.tgz").write_bytes(stream.getvalue())
    return tmp_path / "runtime.tgz"


def test_the_runtime_is_kept_and_looked_at_again(published: Path, exported: Path) -> None:
    assert at_hand() is None
    assert len(b64decode(web_runtime.INTEGRITY.removeprefix("sha512-"))) == 64
    with pytest.raises(NoRuntimeError, match=r"HF_HUB_OFFLINE is set. Fetch https://registry.*--runtime-file"):
        web_runtime.web_runtime()
    other = published.with_name("other.tgz")
    other.write_bytes(published.read_bytes() + b"x")
    with pytest.raises(NoRuntimeError, match="is not onnxruntime-web"):
        web_runtime.web_runtime(other)
    assert "other.tgz" in page_or_how(exported, runtime_file=other)
    assert "model.html: 0." in page_or_how(exported, runtime_file=published)
    kept = at_hand()
    assert kept is not None
    other.unlink()
    assert web_runtime.web_runtime(other) == kept  # the cache is asked first
    file = web_runtime.cache_folder() / f"{WASM}.gz"
    file.write_bytes(file.read_bytes()[:-9])
    assert at_hand() is None


def test_a_large_model_is_served_with_its_folder(
    published: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "ONE_FILE", 9)
    assert "index.html: to be served with its folder" in page_or_how(exported, runtime_file=published)
    assert (exported / f"{WASM}.gz").is_file()
    assert not (exported / "model.html").exists()


def test_a_run_ends_with_a_line_whatever_happens(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = "hf-detr-panoptic export 'runs/my site' --out 'runs/my site/page'"
    assert run_page.after_run("runs/my site") == f"the model in any browser: {how}"
    web_runtime.web_runtime(published)

    def broken(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(run_page, "export", broken)
    monkeypatch.setattr(run_page, "find_spec", lambda name: name)
    assert run_page.after_run("runs/my site").endswith(how)
