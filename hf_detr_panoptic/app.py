"""The app: a photo in, its segments out, in a browser."""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from .dataset.photos import encode_photo, resized_map, stored_names
from .dataset.writer import DatasetWriter
from .errors import HfDetrPanopticError
from .files import write_bytes
from .images import image_size, open_image
from .labels import LabelSpace
from .panoptic_map import Box, PanopticMap, Segment
from .text import count_of

if TYPE_CHECKING:
    import gradio

    from .model.modeling import DetrForPanopticSegmentation

SHOWN_SIDE = 1280  # pixels of a picture's longer side in the browser; the download has all of them
MAX_PIXELS = 60_000_000
SPLIT = "val"  # what the photo of a downloaded dataset is called
_FAINT = 56  # of 255: how much is left of what is not the chosen segment

Point = tuple[int, int]
FLOOR = 0.3
"""The lowest threshold that the slider offers: what scores less is noise, and would be kept in memory."""

_SCENES = 3
_SEED = 7

SESSIONS = 40  # that are remembered at a time, about 30 MB each
SECONDS = 2 * 60 * 60  # until what a visitor uploaded, and what was made of it, is deleted
MOST_BYTES = "64mb"

_WELCOME = '<p class="welcome">The photo with its segments appears here.</p>'
_HINT = '<p class="said">Click the picture: class, score, area and mask of that segment appear here.</p>'
_GONE = HfDetrPanopticError("the app does not remember this photo any more", fix="Choose it again.")

# A small picture is not enlarged: gradio takes where a click was from the picture's own size or less, never from more.
# Wide: what one gives and what one asks on the left, the answer on the right. Narrow: in the order of use.
_CSS = """
.gradio-container {max-width: 1320px !important; margin: 0 auto !important}
#page {display: grid; grid-template: "give see" auto "ask see" 1fr / minmax(260px, 2fr) 5fr; gap: 1rem 1.2rem}
#give {grid-area: give} #see {grid-area: see} #ask {grid-area: ask}
#give, #see, #ask {min-width: 0 !important}
@media (max-width: 760px) {#page {grid-template: "give" "see" "ask" / 100%}}
.head h1 {font-size: 1.5rem; font-weight: 650; margin: .3rem 0 .2rem}
.head p, .said {color: var(--body-text-color-subdued); margin: .1rem 0 .3rem}
.welcome {display: grid; place-items: center; min-height: min(26rem, 30vh); margin: 0; text-align: center;
  border: 1px dashed var(--border-color-primary); color: var(--body-text-color-subdued)}
.chips {display: flex; flex-wrap: wrap; gap: .4rem; margin: .4rem 0}
.chip {display: inline-flex; align-items: center; gap: .4rem; padding: .1rem .6rem .1rem .3rem; line-height: 1.5;
  border: 1px solid var(--border-color-primary); border-radius: 1rem; color: var(--body-text-color)}
.chip small {color: var(--body-text-color-subdued)}
.chip i, .segment i {display: inline-block; width: 1.1rem; height: 1.1rem; border-radius: .55rem; flex: none;
  border: 1px solid rgba(0, 0, 0, .35)}
.segment h3 {display: flex; align-items: center; gap: .5rem; font-size: 1.15rem; font-weight: 650; margin: 0 0 .4rem}
.segment dl {display: grid; grid-template-columns: max-content 1fr; gap: .15rem .9rem; margin: 0}
.segment dt {color: var(--body-text-color-subdued)}
.segment dd {margin: 0; color: var(--body-text-color)}
.problem {border-left: 4px solid #c0392b; padding: .5rem .8rem; margin: 0; color: var(--body-text-color);
  background: var(--background-fill-secondary); overflow-wrap: anywhere}
.head, #legend, #facts, :is(.head, #legend, #facts) > * {padding: 0 !important}
#picture img {max-height: 85vh; cursor: crosshair}
#cut img {background: #131418}
"""


class Segmented(Protocol):
    """One photo that went through a model."""

    def map(self, threshold: float) -> PanopticMap:
        """Its map at any threshold from the model's floor on, without the model."""


@dataclass(frozen=True)
class AppModel:
    """What the app knows of a model. `floor` is the lowest threshold that its slider offers."""

    name: str
    space: LabelSpace
    segment: Callable[[Image.Image], Segmented]
    threshold: float
    floor: float


@dataclass(frozen=True, eq=False)
class OpenedPhoto:
    """A photo that went through the model: `file` as it came, `shown` as large as a browser needs it."""

    name: str
    file: bytes
    shown: Image.Image
    segmented: Segmented


@dataclass(frozen=True, eq=False)
class Look:
    """An opened photo at one threshold. `map` is that of the shown picture; all the rest is of the photo itself."""

    opened: OpenedPhoto
    map: PanopticMap
    size: tuple[int, int]
    segments: tuple[Segment, ...]
    areas: dict[int, int]
    boxes: dict[int, Box]
    void_area: int

    def picture(self) -> Image.Image:
        """The photo with its segments; the legend is text beside it, which a phone can show at a readable size."""
        from .pictures.draw import draw

        return draw(self.opened.shown, self.map, legend=False)

    def segment_at(self, point: Point) -> int:
        """The id under (x, y) of the shown picture, 0 for void and for a place outside."""
        x, y = point
        return int(self.map.ids[y, x]) if 0 <= x < self.map.width and 0 <= y < self.map.height else 0

    def cut_out(self, segment_id: int) -> Image.Image:
        """The shown photo with one segment opaque and all else faint: alpha is 255 exactly where its mask is."""
        cut = self.opened.shown.convert("RGB")
        alpha = np.where(self.map.mask(segment_id), np.uint8(255), np.uint8(_FAINT))
        cut.putalpha(Image.fromarray(alpha))
        return cut


def open_photo(model: AppModel, path: Path) -> OpenedPhoto:
    """The photo through the model. What is wrong with it is told by its own name, not by where the server keeps it."""
    file = path.read_bytes()
    try:
        photo = open_image(file, max_pixels=MAX_PIXELS)
    except HfDetrPanopticError as error:
        raise type(error)(error.what, where=path.name, fix=error.fix) from error
    segmented = model.segment(photo)
    shrink = min(1.0, SHOWN_SIDE / max(photo.size))
    width, height = (max(1, round(side * shrink)) for side in photo.size)
    shown = photo if shrink == 1.0 else photo.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return OpenedPhoto(path.name, file, shown, segmented)


def look_at(opened: OpenedPhoto, threshold: float) -> tuple[Look, bytes]:
    """The photo's map at a threshold as it is shown, and as the zip to download."""
    whole = opened.segmented.map(threshold)
    size = (whole.width, whole.height)
    shown = whole if opened.shown.size == size else resized_map(whole, opened.shown.size)
    look = Look(opened, shown, size, whole.segments, whole.areas(), whole.boxes(), whole.void_area)
    return look, panoptic_zip(opened, whole)


def panoptic_zip(opened: OpenedPhoto, scene: PanopticMap) -> bytes:
    """A dataset of one photo in COCO panoptic format, zipped: `check` and `evaluate` read the folder it unpacks to."""
    stream = io.BytesIO()
    name = stored_names([opened.name])[opened.name]
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "photo"
        source.write_bytes(opened.file)
        folder = Path(scratch) / "dataset"
        with DatasetWriter(folder, scene.space, description=f"predicted for {opened.name}") as writer:
            writer.add(SPLIT, name, source, scene, original=opened.name)
        with zipfile.ZipFile(stream, "w") as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                packed = path.suffix == ".json"
                inside = path.relative_to(folder).as_posix()
                archive.write(path, inside, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    return stream.getvalue()


def legend_html(look: Look) -> str:
    """Every class that is there, by its number in the picture, and how much is void."""
    counts: dict[int, int] = {}
    for segment in look.segments:
        counts[segment.label] = counts.get(segment.label, 0) + 1
    space = look.map.space
    chips = [
        _chip(_css(space, label), f"{label + 1}", space[label].name, count) for label, count in sorted(counts.items())
    ]
    if look.void_area:
        chips.append(_chip("repeating-linear-gradient(135deg,#3c3c40 0 3px,#bebec4 3px 6px)", "", "void", 1))
    void = look.void_area / (look.size[0] * look.size[1])
    said = f"{count_of(len(look.areas), 'segment')} of {count_of(len(counts), 'class', 'classes')}, {void:.1%} void"
    if not look.areas:
        said = "No segment passes this threshold. Move the slider to the left."
    return f'<p class="said">{said}</p><div class="chips">{"".join(chips)}</div>'


def segment_html(look: Look, segment_id: int) -> str:
    """Class, score, area and box of a segment, or what void is."""
    pixels = look.size[0] * look.size[1]
    if not segment_id:
        share = f"{look.void_area:,} pixels, {look.void_area / pixels:.1%} of the photo"
        return _facts("#8a8a90", "void", {"what": "no segment claims this place", "area": share})
    segment = look.map.segment(segment_id)
    category = look.map.space[segment.label]
    area = look.areas[segment_id]
    x, y, width, height = look.boxes[segment_id]
    facts = {
        "kind": "thing" if category.isthing else "stuff",
        "score": f"{segment.score:.2f}",
        "area": f"{area:,} pixels, {area / pixels:.1%} of the photo",
        "box": f"{width} × {height} at ({x}, {y})",
    }
    return _facts(_css(look.map.space, segment.label), category.name, facts)


def problem_html(error: HfDetrPanopticError) -> str:
    """One clear sentence, whatever the file was called."""
    return f'<p class="problem" role="alert">{escape(str(error))}</p>'


def _chip(background: str, number: str, name: str, count: int) -> str:
    times = f" <small>× {count}</small>" if count > 1 else ""
    bold = f"<b>{number}</b> " if number else ""
    return f'<span class="chip"><i style="background:{background}"></i>{bold}{escape(name)}{times}</span>'


def _facts(background: str, title: str, facts: dict[str, str]) -> str:
    rows = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    head = f'<h3><i style="background:{background}"></i>{escape(title)}</h3>'
    return f'<div class="segment">{head}<dl>{rows}</dl></div>'


def _css(space: LabelSpace, label: int) -> str:
    from .pictures.draw import class_color

    return "rgb({}, {}, {})".format(*class_color(space, label))


@dataclass(frozen=True, eq=False)
class _Visit:
    """What one session shows: gradio keeps one of these a visitor."""

    look: Look
    point: Point | None = None


def build_app(model: AppModel, *, title: str, examples: Sequence[Path] = ()) -> gradio.Blocks:
    """The page. Start it with `serve`.

    A photo goes through the model once; the threshold then only chooses among the masks that were kept.
    """
    gr = _gradio()
    silent = {"api_visibility": "private", "show_progress": "hidden"}
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(SECONDS // 8, SECONDS)) as app:
        visit = gr.State(None, time_to_live=SECONDS)
        gr.HTML(_head(model, title), elem_classes="head", padding=False)
        with gr.Row(elem_id="page"):
            with gr.Column(elem_id="give"):
                file = gr.File(label="Photo", file_types=["image", ".heic", ".heif"], height=150, elem_id="photo")
                gallery = gr.Dataset(
                    label="Or try one of these",
                    components=[gr.Image(visible=False)],
                    samples=[[str(path)] for path in examples],
                    type="index",
                    visible=bool(examples),
                    elem_id="examples",
                )
            with gr.Column(elem_id="see"):
                picture = gr.Image(
                    label="Segments",
                    interactive=False,
                    visible=False,
                    buttons=["fullscreen"],
                    elem_id="picture",
                )
                legend = gr.HTML(_WELCOME, elem_id="legend", padding=False)
                threshold = gr.Slider(
                    model.floor,
                    0.99,
                    value=model.threshold,
                    step=0.01,
                    label="Threshold",
                    info="Only segments with a higher score are shown.",
                    elem_id="threshold",
                )
                download = gr.DownloadButton(
                    "Download as COCO panoptic", size="md", interactive=False, elem_id="download"
                )
            with gr.Column(elem_id="ask"):
                facts = gr.HTML(visible=False, elem_id="facts", padding=False)
                cut = gr.Image(
                    label="The segment's mask",
                    interactive=False,
                    visible=False,
                    buttons=["fullscreen"],
                    elem_id="cut",
                )
        shown = [visit, picture, legend, facts, cut, download]

        def uploaded(given: dict[str, Any] | None, level: float) -> list[Any]:
            return _nothing(gr, _WELCOME) if given is None else opened(given["path"], level)

        def opened(path: str, level: float) -> list[Any]:
            try:
                look, packed = look_at(open_photo(model, Path(path)), max(level, model.floor))
            except HfDetrPanopticError as error:
                return _nothing(gr, problem_html(error))
            return _all(gr, _Visit(look), packed, app)

        def chosen(index: int, level: float) -> list[Any]:
            return [None, *opened(str(examples[index]), level)]

        def moved(visit: _Visit | None, level: float) -> list[Any]:
            if visit is None:
                return [gr.skip()] * len(shown)
            look, packed = look_at(visit.look.opened, max(level, model.floor))
            return _all(gr, _Visit(look, visit.point), packed, app)

        def clicked(visit: _Visit | None, event: gradio.SelectData) -> list[Any]:
            if visit is None:
                return _nothing(gr, problem_html(_GONE))
            visit = _Visit(visit.look, (int(event.index[0]), int(event.index[1])))
            return [visit, gr.skip(), gr.skip(), *_segment(gr, visit, app), gr.skip()]

        clicked.__annotations__["event"] = gr.SelectData  # a name that gradio cannot look up by itself
        one_by_one = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        # gradio's own preprocessing refuses names ("photo", ".png"), with an "Error" on each part of the page; we look
        # at what is in the file.
        file.upload(uploaded, [file, threshold], shown, preprocess=False, **one_by_one)
        gallery.click(chosen, [gallery, threshold], [file, *shown], **one_by_one)
        file.clear(lambda: _nothing(gr, _WELCOME), None, shown, **silent)
        threshold.change(moved, [visit, threshold], shown, trigger_mode="always_last", **silent)
        picture.select(clicked, [visit], shown, trigger_mode="always_last", **silent)
    app.queue(default_concurrency_limit=4, max_size=64)
    return app


def serve(app: gradio.Blocks, port: int | None = None) -> str:
    """Start the server and return its address; it runs until `app.close()`, or while `app.block_thread()` waits.

    Nothing is asked of the network: no telemetry, no fonts, no script from elsewhere. `GRADIO_SERVER_NAME=0.0.0.0`
    opens it to other machines.
    """
    gr = _gradio()
    os.environ.setdefault("GRADIO_RUN_HISTORY", "False")
    plain = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=plain, font_mono=["monospace"])
    try:
        _, address, _ = app.launch(
            server_port=port,
            prevent_thread_lock=True,
            inline=False,
            quiet=True,
            share=False,
            ssr_mode=False,
            footer_links=[],
            max_file_size=MOST_BYTES,
            state_session_capacity=SESSIONS,
            theme=theme,
            css=_CSS,
        )
    except OSError as error:
        raise HfDetrPanopticError(
            f"the app cannot be served ({error})", fix="Give another --port, or none: then a free one is taken."
        ) from error
    return str(address)


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise HfDetrPanopticError("the app needs gradio", fix='Type: pip install "hf-detr-panoptic[app]".') from error
    return gradio


def _head(model: AppModel, title: str) -> str:
    things = sum(category.isthing for category in model.space)
    classes = f"{len(model.space)} classes: {things} things, {len(model.space) - things} stuff"
    return f"<h1>{escape(title)}</h1><p>{escape(model.name)} · {classes}</p>"


def _nothing(gr: Any, said: str) -> list[Any]:
    """The page without a photo, and a sentence in its place."""
    hidden = gr.update(value=None, visible=False)
    return [None, hidden, said, hidden, hidden, gr.update(value=None, interactive=False)]


def _all(gr: Any, visit: _Visit, packed: bytes, app: Any) -> list[Any]:
    """The page of a photo at a threshold."""
    stem = PurePosixPath(visit.look.opened.name).stem or "photo"
    return [
        visit,
        gr.update(value=_served(f"{stem}.jpg", encode_photo(visit.look.picture()), app), visible=True),
        legend_html(visit.look),
        *_segment(gr, visit, app),
        gr.update(value=_served(f"{stem}_panoptic.zip", packed, app), interactive=True),
    ]


def _segment(gr: Any, visit: _Visit, app: Any) -> list[Any]:
    """What is known of the segment under the last click."""
    if visit.point is None:
        return [gr.update(value=_HINT, visible=True), gr.update(value=None, visible=False)]
    chosen = visit.look.segment_at(visit.point)
    facts = gr.update(value=segment_html(visit.look, chosen), visible=True)
    if not chosen:
        return [facts, gr.update(value=None, visible=False)]
    stream = io.BytesIO()
    visit.look.cut_out(chosen).save(stream, "PNG", compress_level=3)
    return [facts, gr.update(value=_served(f"segment_{chosen}.png", stream.getvalue(), app), visible=True)]


def _served(name: str, content: bytes, app: Any) -> str:
    """A file where gradio serves it from, and deletes it after `SECONDS`."""
    from gradio import processing_utils

    return processing_utils.save_bytes_to_cache(content, name, app.GRADIO_CACHE)


def app_model(model: str | Path | DetrForPanopticSegmentation, stuff: Iterable[str] | None = None) -> AppModel:
    """What the app needs of a checkpoint's folder or name, or of a loaded model."""
    from accelerate import PartialState

    from .model.modeling import DetrForPanopticSegmentation
    from .model.segment import keep_masks

    name = "" if isinstance(model, DetrForPanopticSegmentation) else str(model)
    loaded: Any = model
    if name:
        loaded = DetrForPanopticSegmentation.from_pretrained(name, stuff=stuff).to(PartialState().device)
    loaded.eval()
    threshold = loaded.settings.threshold
    floor = min(FLOOR, threshold)
    return AppModel(
        name=_shown_name(name) or type(loaded).__name__,
        space=loaded.label_space,
        segment=lambda photo: keep_masks(loaded, photo, floor),
        threshold=threshold,
        floor=floor,
    )


def save_example_photos(folder: Path) -> Path:
    """Synthetic photos of a site, for whoever has none at hand."""
    for name, photo in example_photos().items():
        write_bytes(folder / name, photo)
    return folder


def example_photos() -> dict[str, bytes]:
    """The same by file name."""
    from .demo.scenes import scenes

    made = scenes(_SCENES, _SEED, size=(768, 576))
    return {f"site_{number}.jpg": encode_photo(scene.photo) for number, scene in enumerate(made, start=1)}


def _shown_name(model: str) -> str:
    """A name of the Hub as it is; of a folder its end, for visitors need not know where it lies."""
    return "/".join(Path(model).resolve().parts[-2:]) if Path(model).exists() else model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a DETR panoptic checkpoint, a folder or on the Hub")
    parser.add_argument("photos", metavar="PHOTO", nargs="*", help="examples to click: files, or folders")
    parser.add_argument("--no-examples", action="store_true", help="no synthetic photos where none are given")
    parser.add_argument("--title", default="Panoptic segmentation", help="above the page (%(default)s)")
    parser.add_argument("--port", type=int, help="where to listen (the first free one from 7860 on)")
    parser.add_argument("--stuff", metavar="A,B", help="the model's stuff classes, if its configuration does not say")


def main(args: argparse.Namespace) -> int:
    """A model in the browser: a photo in, its segments out, each one told by a click.

      hf-detr-panoptic app runs/site/final
      hf-detr-panoptic app user/model photos/ --title "My site"

    PHOTO are the examples that a visitor can click, files or folders; without any, three synthetic photos. The
    threshold slider works on masks that were kept: no new inference. Needs gradio:
    pip install "hf-detr-panoptic[app]".
    """
    from .predict import find_photos

    stuff = None if args.stuff is None else [name.strip() for name in args.stuff.split(",") if name.strip()]
    with tempfile.TemporaryDirectory() as scratch:
        synthetic = [] if args.no_examples else [save_example_photos(Path(scratch))]
        given: Sequence[str | Path] = args.photos or synthetic
        examples, problems = find_photos(given) if given else ({}, [])
        if problems:
            raise problems[0]
        for path in examples.values():
            image_size(path)  # a visitor should not be the first to see that it is no photo
        app = build_app(app_model(args.model, stuff), title=args.title, examples=list(examples.values()))
        print(f"{serve(app, args.port)}  (Ctrl-C ends it)", flush=True)
        app.block_thread()
    return 0
