"""What a page on the Hub shows of a model, before anything is on the Hub.

    python examples/widget.py runs/site/final photo.jpg
    python examples/widget.py facebook/detr-resnet-50-panoptic photo.jpg --out widget.png

The photo is posted, as the widget does it, to two endpoints on this machine: one around transformers' pipeline, which
is what the Hub runs, and one around handler.py, which Inference Endpoints run. --out shows both answers beside it.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import io
import json
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hf_detr_panoptic.errors import HfDetrPanopticError, ModelError
from hf_detr_panoptic.images import open_image
from hf_detr_panoptic.labels import default_color
from hf_detr_panoptic.pictures.draw import MODEL, Entry, legend
from hf_detr_panoptic.pictures.panels import panels

# `{"inputs": a photo in base64, "parameters": {...}}` → a list of {"label", "score", "mask"}, masks as PNG in base64.
Answer = Callable[[dict[str, Any]], list[dict[str, Any]]]
MOST_BYTES = 64_000_000


class Segment(NamedTuple):
    """One of an answer; the mask is as large as the photo, black and white."""

    label: str
    score: float
    mask: Image.Image


def load(model: str) -> dict[str, Answer]:
    """Both endpoints' answers, by name."""
    try:
        return {"pipeline": pipeline_answer(model), "handler": handler_answer(model)}
    except Exception as error:  # loading raises nearly anything
        raise ModelError(
            f"the model cannot be loaded ({str(error).strip().splitlines()[0] if str(error).strip() else error!r})",
            where=model,
            fix="Give a model's folder, or its name on the Hub; without a network, one that is in the cache.",
        ) from error


def pipeline_answer(model: str) -> Answer:
    """What the Hub's own servers say."""
    from transformers import pipeline

    segmenter = pipeline("image-segmentation", model=model)

    def answer(data: dict[str, Any]) -> list[dict[str, Any]]:
        found = segmenter(data["inputs"], **data["parameters"])
        return [{**segment, "score": float(segment["score"]), "mask": _png(segment["mask"])} for segment in found]

    return answer


def handler_answer(model: str) -> Answer:
    """What an Inference Endpoint says: the repository's handler.py, or the one that a push would put there."""
    from huggingface_hub import snapshot_download

    from hf_detr_panoptic.hub import handler

    folder = Path(model) if Path(model).is_dir() else Path(snapshot_download(model))
    source = folder / "handler.py"
    spec = importlib.util.spec_from_file_location("handler", source if source.is_file() else handler.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    answer: Answer = module.EndpointHandler(str(folder))
    return answer


@contextmanager
def serving(answers: Mapping[str, Answer]) -> Iterator[str]:
    """An endpoint for each name, at the address that is given back, for this machine alone."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer = answers.get(self.path.strip("/"))
            length = int(self.headers.get("Content-Length") or 0)
            if answer is None or not 0 < length <= MOST_BYTES:
                return self.reply(404 if answer is None else 413, {"error": "no such endpoint, or no such photo"})
            body = self.rfile.read(length)
            try:
                is_json = self.headers.get("Content-Type", "").startswith("application/json")
                data = json.loads(body) if is_json else {"inputs": base64.b64encode(body).decode("ascii")}
                return self.reply(200, answer({"inputs": data["inputs"], "parameters": data.get("parameters") or {}}))
            except (ValueError, KeyError, TypeError) as error:
                return self.reply(400, {"error": str(error)[:500]})

        def reply(self, status: int, content: Any) -> None:
            encoded = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def post(address: str, photo: Path) -> list[Segment]:
    """The photo's file, as it is, to an endpoint on this machine: whatever proxies there are, and offline too."""
    request = urllib.request.Request(address, photo.read_bytes(), {"Content-Type": "application/octet-stream"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
            found = json.load(response)
    except urllib.error.HTTPError as error:
        said = json.load(error).get("error", "no reason given")
        raise HfDetrPanopticError(f"the endpoint refuses the photo: {said}", where=str(photo)) from error
    return [
        Segment(each["label"], each["score"], open_image(base64.b64decode(each["mask"])).convert("L"))
        for each in found
    ]


def picture(photo: Image.Image, segments: Sequence[Segment]) -> Image.Image:
    """The photo under the masks, each in its colour, in the order of the list, and the list below."""
    pixels = np.asarray(photo.convert("RGB")).astype(np.float32)
    entries = []
    for place, segment in enumerate(segments):
        color = default_color(place)
        inside = np.asarray(segment.mask) > 127
        pixels[inside] = 0.4 * pixels[inside] + 0.6 * np.array(color, dtype=np.float32)
        entries.append(Entry(f"{segment.label} {segment.score:.2f}", color, MODEL))
    below = legend(entries, False, photo.width, max(11, photo.width // 50))
    return Image.fromarray(np.concatenate([pixels.round().astype(np.uint8), below]))


def _png(mask: Image.Image) -> str:
    stream = io.BytesIO()
    mask.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model's folder, or its name on the Hub")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--out", type=Path, default=Path("widget.png"), help="(%(default)s)")
    args = parser.parse_args(words)
    try:
        photo = open_image(args.photo)
        answers = load(args.model)
        shown = [photo]
        with serving(answers) as address:
            for name in answers:
                segments = post(f"{address}/{name}", args.photo)
                print(f"{name}: {len(segments)} segments")
                for segment in segments:
                    share = np.asarray(segment.mask).astype(bool).mean()
                    print(f"  {segment.label} {segment.score:.2f}, {share:.1%} of the photo")
                shown.append(picture(photo, segments))
        panels(shown, ["photo", "the widget: pipeline", "an endpoint: handler.py"]).save(args.out)
    except HfDetrPanopticError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"beside the photo: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
