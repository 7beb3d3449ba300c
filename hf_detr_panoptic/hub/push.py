"""A run to the Hub, by the command or as it trains: stages to branches, the final model, data, metric and demo."""

from __future__ import annotations

import argparse
import getpass
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..browser.folder import ONE_GRAPH
from ..dataset.photos import bare_photo
from ..errors import DatasetError, HfDetrPanopticError, HubError, RunError, clear_errors
from ..files import write_bytes, write_text, write_yaml
from ..lock import LOCK, locked
from ..text import count_of
from ..training.run_folder import RECIPE, Run, stage_folder
from .repository import (
    OLD_DATA,
    OLD_WEIGHTS,
    Files,
    Hub,
    Upload,
    check_inside,
    check_name,
    model_files,
    size_of,
    without_private_paths,
)

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..settings import Push
    from ..training.run_folder import StageEnd

METRIC = Path(__file__).parents[1] / "evaluation" / "metric"
SIBLINGS = ("annotations.py", "counting.py")

# Of a run, beside the model; what is not there is left out.
_FIGURES = ("metrics.json", "results.csv", "per_class.csv", "environment.json")

MOST_EXAMPLES = 12
# What an earlier demo of that kind has left.
_APP = ("*.whl", "examples/*")
_PAGE = ("*.onnx", "*.gz", "examples/*")

DemoKind = Literal["gradio", "static"]
Say = Callable[[str], None]
Data = tuple[str | Path, str]  # a dataset's folder, and its name on the Hub


def push(
    run: str | Path | None,
    repository: str | None,
    *,
    private: bool = True,
    stages: bool = True,
    data: Data | None = None,
    metric: str | None = None,
    demo: str | None = None,
    demo_kind: DemoKind = "gradio",
    examples: Sequence[str | Path] = (),
    license: str | None = None,
    onnx: bool = False,
    say: Say = print,
) -> list[str]:
    """A run's model to `repository`, and a dataset (folder, name), the metric and a demo if they are named.

    A demo is an app of `gradio`, or a `static` page that brings the model; `examples`: your photos, which go up for
    its visitors to click. `onnx` adds the graph for transformers.js. Returns the addresses. `private` is for
    repositories that are new; what is public is not added to in private.
    """
    what: dict[str, Any] = {"data": data, "metric": metric, "demo": demo, "demo_kind": demo_kind, "examples": examples}
    with planned(run, repository, stages=stages, license=license, onnx=onnx, **what) as uploads:
        hub = Hub()
        hub.sign_in()
        hub.make_ready(uploads, private=private)
        for upload in uploads:
            send(hub, upload, say)
        return [hub.address(upload) for upload in uploads if upload.revision == "main"]


class PushAsItTrains:
    """The recipe's `push` block: each stage to its branch as it ends, the rest when the run is finished.

    Made before training: whoever may not push hears of it before hours are spent.
    """

    def __init__(self, recipe: Recipe, push: Push) -> None:
        from .cards import checked_license

        checked_license(push.license)
        self.recipe, self.push = recipe, push
        self.folder = Path(recipe.output)
        self.data = _dataset(recipe, push)
        self.hub = Hub()
        self.hub.sign_in()
        wanted = [Upload(push.repository, {}, "")]
        wanted += [Upload(self.data[1], {}, "", kind="dataset", holds="label_space.json")] if self.data else []
        self.hub.make_ready(wanted, private=push.private)

    def stage_ended(self, end: StageEnd) -> None:
        """To its branch. What fails here is only told: training goes on, and the end tries again."""
        if not self.push.stages:
            return
        try:
            with clear_errors(self.folder):
                upload = _stage_upload(Run(self.folder), end.name, self.push.repository, self.data, self.push.license)
                send(self.hub, upload, print)
        except HfDetrPanopticError as error:
            print(f"{end.name} is not pushed yet: {error}", file=sys.stderr)

    def finished(self) -> None:
        """Everything that is not there yet, main last; nothing while a stage is still to come."""
        if {stage.name for stage in self.recipe.stages.to_run} - Run(self.folder).stages.keys():
            print(f"{self.push.repository}: main waits for the last stage")
            return
        try:
            if self.push.pictures is not None:
                from .pictures import draw_card_pictures

                with clear_errors(self.folder):
                    draw_card_pictures(self.folder, self.recipe, self.push.pictures)
            with planned(
                self.folder,
                self.push.repository,
                stages=self.push.stages,
                data=self.data,
                license=self.push.license,
                onnx=self.push.onnx,
            ) as uploads:
                self.hub.make_ready(uploads, private=self.push.private)
                for upload in uploads:
                    send(self.hub, upload, print)
        except HfDetrPanopticError as error:
            raise type(error)(
                f"the run is finished, but not all of it is pushed: {error.what}",
                where=error.where,
                fix=f"{error.fix or ''} The run is in {self.folder}; the same command only pushes what is missing.",
            ) from error


def _dataset(recipe: Recipe, push: Push) -> Data | None:
    """The folder and the name of the dataset, if it is pushed."""
    if push.dataset is None:
        return None
    folder = recipe.prepared_folder or recipe.data
    if isinstance(folder, str) and not Path(folder).is_dir():
        raise HubError(f"'{folder}' is no folder to push", where="push.dataset", fix="Leave it out: it has a name.")
    return str(folder), push.dataset


def send(hub: Hub, upload: Upload, say: Say) -> None:
    """One commit, and a line about it."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars

    if not sys.stderr.isatty() and not are_progress_bars_disabled():
        disable_progress_bars()
    changed = hub.send(upload)
    say(f"{upload.where}: {_count(upload)}" if changed else f"{upload.where}: all of it is there already")


@contextmanager
def planned(
    run: str | Path | None,
    repository: str | None,
    *,
    stages: bool = True,
    data: Data | None = None,
    metric: str | None = None,
    demo: str | None = None,
    demo_kind: DemoKind = "gradio",
    examples: Sequence[str | Path] = (),
    license: str | None = None,
    onnx: bool = False,
) -> Iterator[list[Upload]]:
    """What would be sent, in this order; nothing is asked of the network. Files made for it are gone afterwards."""
    if (run is None) != (repository is None):
        raise HubError("a run and a name go together", fix="Give both, such as `push runs/site user/site`.")
    if demo and repository is None:
        raise HubError("a demo shows a model", fix="Name the run and the model's repository too.")
    if examples and not demo:
        raise HubError("examples are of a demo", where="--examples", fix="Name its Space too: --demo USER/NAME.")
    photos = _example_photos(examples)
    for name in (repository, data and data[1], metric, demo):
        if name is not None:
            check_name(name)
    _clear_scratch()
    with (
        tempfile.TemporaryDirectory(prefix=_SCRATCH) as scratch,
        locked(scratch, together=False),
        clear_errors(Path(scratch)),
    ):
        uploads = []
        if run is not None and repository is not None:
            whole = finished_run(run)
            names = whole.stages if stages else ()
            uploads += [_stage_upload(whole, name, repository, data, license) for name in names]
            uploads.append(_final_upload(whole, repository, data, license, onnx))
        if metric:
            uploads.insert(0, _metric_upload(Path(scratch) / "metric", metric))
        if data:
            uploads.insert(0, _data_upload(Path(scratch) / "data", Path(data[0]), data[1], license))
        if demo and repository and demo_kind == "static":
            uploads.append(_page_upload(demo, repository, whole, Path(scratch) / "page", photos, license))
        elif demo and repository:
            uploads.append(_app_upload(demo, repository, photos))
        if not uploads:
            raise HubError("nothing to push is named", fix="Such as `hf-detr-panoptic push runs/site user/site`.")
        yield uploads


_SCRATCH = "hf-detr-panoptic-"


def _clear_scratch() -> None:
    """What a push that was killed has left: with --data it is a whole dataset."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        if (folder / LOCK).is_file():
            with (
                suppress(HfDetrPanopticError, OSError),
                locked(folder, together=False),
            ):  # somebody's at work, or another's
                shutil.rmtree(folder)


def finished_run(folder: str | Path) -> Run:
    """The run in a folder; raises where it is not finished."""
    run = Run.at(folder)
    for stage in run.recipe.stages.to_run:
        if stage.name not in run.stages:
            state = "is not finished" if stage_folder(run.folder, stage.name).is_dir() else "has not begun"
            raise RunError(
                f"the run is incomplete: the stage {stage.name} {state}",
                where=str(folder),
                fix=f"Finish it: hf-detr-panoptic train {run.folder / RECIPE}. "
                "A stage that you do without: `skip: true`.",
            )
    return run


def _stage_upload(run: Run, stage: str, repository: str, data: Data | None, license: str | None) -> Upload:
    """A finished stage, for its branch."""
    from .cards import handler_source, stage_card

    files = model_files(stage_folder(run.folder, stage), run.folder)
    files["README.md"] = stage_card(stage, repository, license)
    files["handler.py"] = handler_source().encode()
    files["requirements.txt"] = b"timm\n"  # the handler's; main has it from its card's files
    files["recipe.yaml"] = published_recipe(run.recipe, data)
    return Upload(repository, files, f"Stage {stage}", revision=stage, replaces=OLD_WEIGHTS)


def _final_upload(run: Run, repository: str, data: Data | None, license: str | None, onnx: bool = False) -> Upload:
    """The final model with its card, for main; its graph for transformers.js if wanted."""
    from .cards import handler_source, model_card_files

    final, stages = run.folder / "final", [stage.name for stage in run.recipe.stages.to_run]
    again = f"Run `hf-detr-panoptic train {run.folder / RECIPE}` once more: what is finished is only copied."
    if not final.is_dir():
        raise RunError("the run is incomplete: there is no final/", where=str(run.folder), fix=again)
    files = model_files(final, run.folder)
    if not _alike(files, model_files(run.last, run.folder)):
        last = run.last.relative_to(run.folder).as_posix()
        raise RunError(f"final/ is not what {last}/ ended with", where=str(run.folder), fix=again)
    if onnx:
        from ..browser.export import files_for_transformers_js

        files |= files_for_transformers_js(final)
    figures = {name: run.folder / name for name in _FIGURES if (run.folder / name).is_file()}
    check_inside(figures.values(), run.folder)
    files |= figures
    files["handler.py"] = handler_source().encode()
    files["recipe.yaml"] = published_recipe(run.recipe, data)
    known = data[1] if data else None
    files |= model_card_files(run.folder, repository, license=license, data_repository=known, onnx=onnx)
    old = (*OLD_WEIGHTS, ONE_GRAPH)  # a graph of other weights, too
    return Upload(repository, files, f"The final model, after {', '.join(stages)}", replaces=old)


def _alike(files: Files, others: Files) -> bool:
    from filecmp import cmp

    return files.keys() == others.keys() and all(
        cmp(one, others[name], shallow=False) for name, one in files.items() if isinstance(one, Path)
    )


def published_recipe(recipe: Recipe, data: Data | None) -> bytes:
    """recipe.yaml for others: relative paths, nobody's name, no push; the dataset by its name if it is pushed too."""
    content = without_private_paths(recipe.to_dict() | {"push": None}, Path.cwd(), _people())
    source = recipe.prepared_folder or recipe.data
    if data and isinstance(source, str | Path) and Path(source).resolve() == Path(data[0]).resolve():
        content["data"] = data[1]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "recipe.yaml"
        write_yaml(content, path, header="The recipe of this model. Again: hf-detr-panoptic train recipe.yaml")
        return path.read_bytes()


def _people() -> set[str]:
    """What the user is called here; in a container the system may not know."""
    people = set()
    with suppress(KeyError, OSError):
        people.add(getpass.getuser())
    with suppress(RuntimeError):
        people.add(Path.home().name)
    return people


def _data_upload(scratch: Path, folder: Path, repository: str, license: str | None) -> Upload:
    from ..dataset.rows import SPACE_FILE, load_panoptic, write_parquet
    from .cards import published_dataset_card

    if not folder.is_dir():
        raise HubError("the dataset is not there", where=str(folder), fix="Give the folder that `prepare` wrote.")
    paths = [*write_parquet(load_panoptic(folder), scratch), scratch / SPACE_FILE]
    files: Files = {path.relative_to(scratch).as_posix(): path for path in paths}
    files["README.md"] = published_dataset_card(folder, repository, license=license)
    return Upload(repository, files, "The dataset", kind="dataset", replaces=OLD_DATA, holds=SPACE_FILE)


def _metric_upload(scratch: Path, repository: str) -> Upload:
    folder = export_metric(scratch, repository)
    files: Files = {path.name: path for path in sorted(folder.iterdir())}
    return Upload(repository, files, "The metric", kind="space", holds=SIBLINGS[-1], sdk="static")


def _app_upload(repository: str, model: str, photos: Files) -> Upload:
    from .space import space_files

    files: Files = space_files(model, model.split("/")[1], photos)
    return Upload(repository, files, "The demo", kind="space", replaces=_APP, holds="*.whl", sdk="gradio")


def _page_upload(repository: str, model: str, run: Run, scratch: Path, photos: Files, license: str | None) -> Upload:
    from ..browser.export import export
    from .space import static_space_files

    export(run.folder / "final", scratch)
    files: Files = static_space_files(scratch, model, model.split("/")[1], photos, license)
    return Upload(repository, files, "The demo", kind="space", replaces=_PAGE, holds="detector.onnx", sdk="static")


def _example_photos(given: Sequence[str | Path]) -> Files:
    """Photos for whoever sees the demo: the picture alone, and not even its name."""
    from ..predict import find_photos

    if not given:
        return {}
    paths, problems = find_photos(given)
    if problems:
        raise problems[0]
    if len(paths) > MOST_EXAMPLES:
        fix = f"Give up to {MOST_EXAMPLES}: everybody who sees the Space sees them."
        raise HubError(f"{len(paths)} photos are too many examples", where="--examples", fix=fix)
    photos: Files = {}
    for number, path in enumerate(paths.values(), start=1):
        content = bare_photo(path.read_bytes(), str(path)).content
        suffix = ".png" if content.startswith(b"\x89PNG") else path.suffix.lower()
        photos[f"photo_{number}{suffix}"] = content
    return photos


def export_metric(folder: str | Path, name: str | None = None) -> Path:
    """Writes the `evaluate` module, which works by itself, into `folder`, which may exist; returns the folder.

    `name` is the repository's, "owner/name" or its last part: on the Hub evaluate looks for `name.py`, offline for a
    module called as its folder, which is the default.
    """
    from .cards import metric_card

    target = Path(folder)
    stem = (name or target.resolve().name).rpartition("/")[2]
    if not re.fullmatch(r"[A-Za-z0-9_-]+", stem) or f"{stem}.py" in SIBLINGS:
        raise DatasetError(
            f"the metric cannot be called '{stem}': its module would not import",
            fix="Use letters, digits, - and _, and neither of annotations and counting.",
        )
    for source, written in [("metric.py", f"{stem}.py"), *((sibling, sibling) for sibling in SIBLINGS)]:
        write_bytes(target / written, (METRIC / source).read_bytes())
    write_text(target / "README.md", metric_card(name or f"./{stem}"))
    return target


def _listing(upload: Upload) -> list[str]:
    """A revision's files and their sizes."""
    lines = [f"  {_size(size_of(content)):>9}  {path}" for path, content in sorted(upload.files.items())]
    return [f"{upload.where}: {_count(upload)}", *lines]


def _count(upload: Upload) -> str:
    return f"{count_of(len(upload.files), 'file')}, {_size(upload.size)}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", nargs="?", help="the folder that `train` wrote; without: no model")
    parser.add_argument("repository", metavar="USER/NAME", nargs="?", help="the model's name on the Hub")
    parser.add_argument(
        "--data", nargs=2, metavar=("DATASET", "USER/NAME"), help="also a dataset's folder, as Parquet with its photos"
    )
    parser.add_argument("--metric", metavar="USER/NAME", help="also the metric, for `evaluate.load`")
    parser.add_argument("--demo", metavar="USER/NAME", help="also a Space where people try the model")
    parser.add_argument(
        "--demo-kind",
        choices=["gradio", "static"],
        default="gradio",
        help="an app on a server, or a page that runs the model in the visitor's browser (%(default)s)",
    )
    parser.add_argument(
        "--examples",
        nargs="+",
        default=[],
        metavar="PHOTO",
        help="your own photos, up to 12, for visitors of the demo to click; they go up: who is on them must agree",
    )
    parser.add_argument("--license", metavar="ID", help="the licence that the cards state, such as apache-2.0")
    parser.add_argument(
        "--pictures",
        type=int,
        metavar="N",
        help="N validation photos with truth and prediction on the card; they go up",
    )
    parser.add_argument("--onnx", action="store_true", help="also onnx/model.onnx, for transformers.js")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--private", action="store_true", help="only you can see what is new (this is the default)")
    who.add_argument("--public", action="store_true", help="everybody can see what is new")
    parser.add_argument("--final-only", action="store_true", help="no branches for the stages")
    parser.add_argument("--dry-run", action="store_true", help="list files and sizes; no network")


def main(args: argparse.Namespace) -> int:
    """A finished run to the Hub: each stage to its branch, the final model to main. Again after a break, it goes on.

      hf-detr-panoptic push runs/site anna/site --dry-run
      hf-detr-panoptic push runs/site anna/site --license apache-2.0 --data data/site anna/site-data
      hf-detr-panoptic push runs/site anna/site --pictures 4
      hf-detr-panoptic push runs/site anna/site --public --metric anna/panoptic-quality --demo anna/site-demo
      hf-detr-panoptic push runs/site anna/site --demo anna/site-demo --demo-kind static --examples yard.jpg

    The token is that of `hf auth login`, or HF_TOKEN. Only model files, cards, figures and the recipe go up: no
    optimizer, no checkpoints, and no path of this machine; of a photo's file only the picture, not where or by whom it
    was taken. main changes last, and at once.
    """
    wanted = {
        "stages": not args.final_only,
        "data": tuple(args.data) if args.data else None,
        "metric": args.metric,
        "demo": args.demo,
        "demo_kind": args.demo_kind,
        "examples": args.examples,
        "license": args.license,
        "onnx": args.onnx,
    }
    if args.pictures is not None:
        from .pictures import draw_card_pictures

        if args.run is None:
            fix = "Name the run and the model's repository too."
            raise HubError("pictures are of a model", where="--pictures", fix=fix)
        run = finished_run(args.run)
        if args.dry_run:
            print(f"{count_of(args.pictures, 'validation photo')} would be drawn first, into {run.folder}/pictures")
        else:
            draw_card_pictures(run.folder, run.recipe, args.pictures)  # they stay there for the next push
    if args.dry_run:
        with planned(args.run, args.repository, **wanted) as uploads:
            print("\n".join(line for upload in uploads for line in _listing(upload)))
        print("Nothing was sent: this was a dry run.")
        return 0
    addresses = push(args.run, args.repository, private=not args.public, **wanted)
    print("\n".join(addresses))
    if args.demo and args.demo_kind == "static":
        print("The Space holds the model itself, as ONNX: who may see the page may keep it.")
    elif args.demo and not args.public:
        print("The Space needs a token to read a private model: set HF_TOKEN in its settings, under Secrets.")
    if args.repository:
        print(f"Next: hf-detr-panoptic predict {args.repository} PHOTOS --out predictions")
    return 0
