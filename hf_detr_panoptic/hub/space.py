"""The demo Space: what its repository holds. An app brings the package as a wheel; a page brings the model itself."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from .. import __version__
from ..dataset.card import Markdown, render
from ..errors import HubError

Content = bytes | Path

EXAMPLES = "examples"
# Where the Hub may send a page for the large files of its own repository.
_FILES_OF_THE_HUB = ("https://*.hf.co", "https://*.huggingface.co")
_DISTRIBUTION = "hf-detr-panoptic"
_PACKAGE = "hf_detr_panoptic"
_TESTED_GRADIO = "6.31.0"
# All that belongs to the package; whatever else lies in a checkout's folders stays at home.
_SUFFIXES = frozenset((".md", ".py", ".typed", ".yaml", ".html", ".j2", ".css", ".js", ".json", ".safetensors"))


def space_files(model_repository: str, title: str, photos: Mapping[str, Content] | None = None) -> dict[str, Content]:
    """Path in the Space's repository → content. `photos`: file name → photo, the examples that a visitor can click.

    Without photos the app offers none: synthetic ones are of a site that the model may never have seen.
    """
    _check_model(model_repository)
    wheel = f"{_PACKAGE}-{__version__}-py3-none-any.whl"
    files: dict[str, Content] = {
        "README.md": _readme(model_repository, title, wheel).encode(),
        "app.py": app_script(model_repository, title, wheel, bool(photos)).encode(),
        "requirements.txt": "".join(f"{line}\n" for line in _requirements()).encode(),
        wheel: _wheel(),
    }
    return files | _examples(photos)


def static_space_files(
    exported: Path,
    model_repository: str,
    title: str,
    photos: Mapping[str, Content] | None = None,
    license: str | None = None,
) -> dict[str, Content]:
    """The same of a Space that is a page. `exported`: the folder of the model's graphs, which visitors get."""
    from huggingface_hub import SpaceCard, SpaceCardData

    from ..browser.page import served_files
    from ..browser.web_runtime import web_runtime

    _check_model(model_repository)
    examples = _examples(photos)
    data = SpaceCardData(
        title=title,
        emoji="🏗️",
        colorFrom="blue",
        colorTo="gray",
        sdk="static",
        app_file="index.html",
        license=license,
        models=[model_repository],
        # Only a page that is isolated like this may start a second thread.
        custom_headers={
            "cross-origin-embedder-policy": "require-corp",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "cross-origin",
        },
    )
    card = render(SpaceCard, data, __package__, "static_space_card.md.j2", model=Markdown(model_repository))
    page = served_files(exported, web_runtime(), title, list(examples), hosts=_FILES_OF_THE_HUB)
    return {"README.md": card.encode(), **page, **examples}


def _check_model(repository: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise HubError(f"{repository!r} is no model on the Hub", fix="A Space loads its model by name: user/name.")


def _examples(photos: Mapping[str, Content] | None) -> dict[str, Content]:
    for name in photos or {}:
        if name != Path(name).name or name.startswith("."):
            raise HubError(f"{name!r} is no plain file name", fix="Name example photos like a.jpg.")
    return {f"{EXAMPLES}/{name}": content for name, content in (photos or {}).items()}


def app_script(model_repository: str, title: str, wheel: str, examples: bool) -> str:
    """The Space's app.py: the command `app`, from the wheel beside it.

    The wheel is put on the path and not into requirements.txt: a gradio Space installs those before the repository's
    other files are there.
    """
    words = ["app", model_repository, EXAMPLES if examples else "--no-examples", "--title", title]
    return (
        f"import sys; sys.path.insert(0, {json.dumps(wheel)})\n"
        f"from {_PACKAGE}.cli import main\n"
        f"sys.exit(main({json.dumps(words, ensure_ascii=False)}))\n"
    )


def _readme(model_repository: str, title: str, wheel: str) -> str:
    from huggingface_hub import SpaceCard, SpaceCardData

    data = SpaceCardData(
        title=title,
        emoji="🏗️",
        colorFrom="blue",
        colorTo="gray",
        sdk="gradio",
        sdk_version=_gradio_version(),
        python_version="3.11",
        app_file="app.py",
        license="apache-2.0",
        models=[model_repository],
    )
    names = {"model": Markdown(model_repository), "wheel": Markdown(wheel)}
    return render(SpaceCard, data, __package__, "space_card.md.j2", **names)


def _gradio_version() -> str:
    try:
        return metadata.version("gradio")
    except metadata.PackageNotFoundError:
        return _TESTED_GRADIO


def _requirements() -> list[str]:
    """What the package needs, without its extras; gradio itself comes with the Space."""
    try:
        declared = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError as error:
        raise HubError(
            "the package is imported from a folder that nobody installed, so its requirements are not known",
            where=str(_home()),
            fix="Type: pip install hf-detr-panoptic's folder or wheel.",
        ) from error
    return sorted(line for line in declared if "extra ==" not in line)


def _wheel() -> bytes:
    """The running package as a wheel: the files that are imported here, whether from a wheel or from a checkout.

    Equal files give equal bytes, so that pushing twice uploads once.
    """
    info = f"{_PACKAGE}-{__version__}.dist-info"
    text = metadata.distribution(_DISTRIBUTION).read_text
    contents = dict(_package_files())
    contents[f"{info}/METADATA"] = (text("METADATA") or text("PKG-INFO") or "").encode()
    contents[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: {_PACKAGE} ({__version__})\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    ).encode()
    contents[f"{info}/entry_points.txt"] = (text("entry_points.txt") or "").encode()
    contents[f"{info}/top_level.txt"] = f"{_PACKAGE}\n".encode()
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in contents.items())
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name)  # its time is 1980: the same for everybody
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return stream.getvalue()


def _package_files() -> Iterator[tuple[str, bytes]]:
    """Path in a wheel → content. In a checkout the recipes lie beside the package, in a wheel inside it."""
    home = _home()
    folders = {_PACKAGE: home}
    if not (home / "training_args").is_dir():
        folders[f"{_PACKAGE}/training_args"] = home.parent / "training_args"
    for prefix, folder in folders.items():
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            hidden = any(part.startswith((".", "__pycache__")) for part in inside.parts)
            if path.is_file() and path.suffix in _SUFFIXES and not hidden:
                yield f"{prefix}/{inside.as_posix()}", path.read_bytes()


def _home() -> Path:
    home = Path(__file__).resolve().parents[1]
    if not home.is_dir():
        raise HubError(
            "the package runs from inside a zip file", where=str(home), fix="Install it with pip to push a demo."
        )
    return home


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
