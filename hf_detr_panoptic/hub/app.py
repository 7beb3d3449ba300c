"""The app: a photo in, its segments out, in a browser. It knows a model only through the `AppModel` handed in."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..dataset.photos import encode_photo
from ..errors import HfDetrPanopticError
from .app_view import AppModel, Look, Point, legend_html, look_at, open_photo, problem_html, segment_html

if TYPE_CHECKING:
    import gradio

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

        def opened(path: str | None, level: float) -> list[Any]:
            if path is None:
                return _nothing(gr, _WELCOME)
            try:
                look, packed = look_at(open_photo(model, Path(path)), max(level, model.floor))
            except HfDetrPanopticError as error:
                return _nothing(gr, problem_html(error))
            return _all(gr, _Visit(look), packed, app)

        def chosen(place: int, level: float) -> list[Any]:
            return [None, *opened(str(examples[place]), level)]

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
        file.upload(opened, [file, threshold], shown, **one_by_one)
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
