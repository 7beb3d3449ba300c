"""The page that runs an exported model: one file that anybody opens, or a folder to be served."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import HfDetrPanopticError, ModelError
from ..files import read_json, write_bytes
from ..labels import LabelSpace, default_color
from ..settings import Postprocess
from ..text import count_of
from .web_runtime import LICENSE, SCRIPT, VERSION, WASM, NoRuntimeError, WebRuntime, at_hand, web_runtime

FLOOR = 0.3
"""The lowest threshold that the slider offers: what scores less is noise, and its masks would be computed."""

ONE_FILE = 30_000_000  # bytes of both graphs; of more a browser takes long to open one file
GRAPHS = ("detector.onnx", "masks.onnx")
TITLE = "Panoptic segmentation"

# In the order that they are put together in: what each needs stands before it.
_ENGINE = ("photo.js", "segments.js", "drawing.js", "coco.js", "engine.js")
_PAGE = ("drawing.js", "page.js")


def write_page(folder: str | Path, *, title: str | None = None, runtime_file: str | Path | None = None) -> Path:
    """`model.html` in an exported model's folder; of a large model `index.html`, to be served with all of the folder.

    The runtime comes from the cache, from `runtime_file` or from the package registry.
    """
    home = Path(folder)
    runtime = web_runtime(runtime_file)
    if sum(_graph(home, name).stat().st_size for name in GRAPHS) <= ONE_FILE:
        path = home / "model.html"
        write_bytes(path, one_file(home, runtime, title))
        return path
    for name, content in served_files(home, runtime, title).items():
        if isinstance(content, bytes):
            write_bytes(home / name, content)
    return home / "index.html"


def page_or_how(
    folder: str | Path,
    *,
    title: str | None = None,
    runtime_file: str | Path | None = None,
    fetch: bool = True,
) -> str:
    """The page written, and the line that says so; where its runtime cannot be had, the line that says how to.

    Not `fetch`: nor is the network asked.
    """
    try:
        if not fetch and runtime_file is None and at_hand() is None:
            raise NoRuntimeError("the page's runtime is not here yet")
        path = write_page(folder, title=title, runtime_file=runtime_file)
    except NoRuntimeError as error:
        return f"no page yet: {error}" if error.fix else f"no page yet: {error.what}"
    if path.name == "model.html":
        return f"{path}: {path.stat().st_size / 1e6:.1f} MB, opens in any browser, without a network"
    return f"{path}: to be served with its folder, such as by `python -m http.server --directory {path.parent}`"


def one_file(folder: Path, runtime: WebRuntime, title: str | None = None) -> bytes:
    """The page with all that it needs in it."""
    packed = [gzip.compress(_graph(folder, name).read_bytes(), 9, mtime=0) for name in GRAPHS]
    contents = (runtime.script, runtime.wasm, *packed)
    parts = [
        (name, None, b64encode(content).decode())
        for name, content in zip(("runtime", "wasm", "detector", "masks"), contents, strict=True)
    ]
    return _rendered(folder, title, parts, [], "default-src 'none'")


def served_files(
    folder: Path,
    runtime: WebRuntime,
    title: str | None = None,
    examples: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> dict[str, bytes | Path]:
    """Name → content of what a server needs: the page, the runtime and the graphs.

    `examples`: where photos lie that a visitor can click; `hosts`: where the server may send the page for its files.
    """
    script, wasm = f"{SCRIPT}.gz", f"{WASM}.gz"
    named = [("runtime", script, ""), ("wasm", wasm, ""), ("detector", GRAPHS[0], ""), ("masks", GRAPHS[1], "")]
    sources = " ".join(("'self'", *hosts))
    html = _rendered(folder, title, named, examples, f"default-src 'none'; connect-src {sources}", sources)
    return {
        "index.html": html,
        script: runtime.script,
        wasm: runtime.wasm,
        **{name: _graph(folder, name) for name in GRAPHS},
    }


def _rendered(
    folder: Path,
    title: str | None,
    parts: Sequence[tuple[str, str | None, str]],
    examples: Sequence[str],
    requests: str,
    images: str = "",
) -> bytes:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    settings = _settings(folder, title or TITLE)
    script, engine, style = _joined(_PAGE), _joined(_ENGINE), _source("page.css")
    # What may run is this script and what it starts; nothing may be asked of any place but those named.
    policy = (
        f"{requests}; script-src {_hash(script)} 'wasm-unsafe-eval' blob:; worker-src blob:; "
        f"style-src {_hash(style)}; img-src blob: data: {images}; base-uri 'none'; form-action 'none'"
    )
    things = sum(category["isthing"] for category in settings["space"])
    classes = f"{count_of(len(settings['space']), 'class', 'classes')}: {things} things, "
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    html = environment.from_string(_source("page.html.j2")).render(
        title=settings["title"],
        classes=classes + f"{len(settings['space']) - things} stuff",
        threshold=settings["settings"]["threshold"],
        floor=settings["floor"],
        examples=examples,
        settings=Markup(json.dumps(settings).replace("<", "\\u003c")),
        parts=parts,
        policy=Markup(policy),
        style=Markup(style),
        script=Markup(script),
        engine=Markup(engine),
        version=VERSION,
        license=LICENSE,
    )
    return html.encode()


def _settings(folder: Path, title: str) -> dict[str, Any]:
    """All that the page knows of its model, from the model's own files."""
    fix = "Export the model again."
    config = read_json(folder / "config.json", ModelError, fix)
    processor = read_json(folder / "preprocessor_config.json", ModelError, fix)
    if not isinstance(config, Mapping) or not isinstance(processor, Mapping):
        raise ModelError("its configuration is no model's", where=str(folder), fix=fix)
    space = LabelSpace.from_config(config)
    from ..preprocess import Preprocess  # torch: `export --help` need not wait for it

    remembered = config.get("hf_detr_panoptic") or {}
    settings = Postprocess(**{key: remembered[key] for key in Postprocess.model_fields if key in remembered})
    return {
        "title": title,
        "space": [
            asdict(category) | {"color": category.color or default_color(label), "column": column}
            for label, (category, column) in enumerate(zip(space, space.columns, strict=True))
        ],
        "preprocess": asdict(Preprocess.from_image_processor(processor)),
        "settings": settings.to_dict(),
        "floor": min(FLOOR, settings.threshold),
    }


def _graph(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        fix = "Export the model: hf-detr-panoptic export RUN_OR_MODEL --out DIR."
        raise HfDetrPanopticError("is not there", where=str(path), fix=fix)
    return path


@cache
def _source(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


@cache
def _joined(names: Sequence[str]) -> str:
    """Modules as one script, each before those that import it: what they give each other are names of one scope."""
    whole = "".join(_source(name) for name in names)
    return re.sub(r"^export ", "", re.sub(r"^import [^;]*;\n", "", whole, flags=re.M), flags=re.M)


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
