"""A finished run to the Hub: each stage to its branch, the final model to main. Again after a break, it goes on.

  hf-detr-panoptic push runs/site anna/site --dry-run
  hf-detr-panoptic push runs/site anna/site --license apache-2.0 --data data/site anna/site-data
  hf-detr-panoptic push runs/site anna/site --pictures 4
  hf-detr-panoptic push runs/site anna/site --public --metric anna/panoptic-quality --demo anna/site-demo

The token is that of `hf auth login`, or HF_TOKEN. Only model files, cards, figures and the recipe go up: no optimizer,
no checkpoints, and no path of this machine; of a photo's file only the picture, not where or by whom it was taken.
main changes last, and at once.
"""

from __future__ import annotations

import argparse
import getpass
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import HubError, did_you_mean

if TYPE_CHECKING:
    from ...hub.contents import Files, Upload
    from ...recipe import Recipe

# Of a run, beside the model; what is not there is left out.
_FIGURES = ("metrics.json", "results.csv", "per_class.csv", "environment.json")

Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", nargs="?", help="the folder that `train` wrote; without: no model")
    parser.add_argument("repository", metavar="USER/NAME", nargs="?", help="the model's name on the Hub")
    parser.add_argument(
        "--data", nargs=2, metavar=("DATASET", "USER/NAME"), help="also a dataset's folder, as Parquet with its photos"
    )
    parser.add_argument("--metric", metavar="USER/NAME", help="also the metric, for `evaluate.load`")
    parser.add_argument("--demo", metavar="USER/NAME", help="also a Space where people try the model")
    parser.add_argument("--license", metavar="ID", help="the licence that the cards state, such as apache-2.0")
    parser.add_argument(
        "--pictures",
        type=int,
        metavar="N",
        help="N validation photos with truth and prediction on the card; they go up",
    )
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--private", action="store_true", help="only you can see what is new (this is the default)")
    who.add_argument("--public", action="store_true", help="everybody can see what is new")
    parser.add_argument("--final-only", action="store_true", help="no branches for the stages")
    parser.add_argument("--dry-run", action="store_true", help="list files and sizes; no network")


def main(args: argparse.Namespace) -> int:
    wanted = {
        "stages": not args.final_only,
        "data": tuple(args.data) if args.data else None,
        "metric": args.metric,
        "demo": args.demo,
        "license": args.license,
    }
    if args.pictures is not None:
        draw_pictures(args.run, args.pictures)
    if args.dry_run:
        with planned(args.run, args.repository, **wanted) as uploads:
            print("\n".join(line for upload in uploads for line in listing(upload)))
        print("Nothing was sent: this was a dry run.")
        return 0
    addresses = push(args.run, args.repository, private=not args.public, **wanted)
    print("\n".join(addresses))
    if args.demo and not args.public:
        print("The Space needs a token to read a private model: set HF_TOKEN in its settings, under Secrets.")
    if args.repository:
        print(f"Next: hf-detr-panoptic predict {args.repository} PHOTOS --out predictions")
    return 0


def push(
    run: str | Path | None,
    repository: str | None,
    *,
    private: bool = True,
    stages: bool = True,
    data: tuple[str | Path, str] | None = None,
    metric: str | None = None,
    demo: str | None = None,
    license: str | None = None,
    say: Say = print,
) -> list[str]:
    """A run's model to `repository`, and a dataset (folder, name), the metric and a demo if they are named.

    Returns the addresses. `private` is for repositories that are new; what is public is not added to in private.
    """
    from ...hub.repository import Hub

    with planned(run, repository, stages=stages, data=data, metric=metric, demo=demo, license=license) as uploads:
        hub = Hub()
        hub.sign_in()
        hub.make_ready(uploads, private=private)
        for upload in uploads:
            send(hub, upload, say)
        return [hub.address(upload) for upload in uploads if upload.revision == "main"]


def send(hub: Any, upload: Upload, say: Say) -> None:
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
    data: tuple[str | Path, str] | None = None,
    metric: str | None = None,
    demo: str | None = None,
    license: str | None = None,
) -> Iterator[list[Upload]]:
    """What would be sent, in this order; nothing is asked of the network. Files made for it are gone afterwards."""
    from ...hub.repository import check_name
    from ..refusals import clear_errors

    if (run is None) != (repository is None):
        raise HubError("a run and a name go together", fix="Give both, such as `push runs/site user/site`.")
    if demo and repository is None:
        raise HubError("a demo shows a model", fix="Name the run and the model's repository too.")
    for name in (repository, data and data[1], metric, demo):
        if name is not None:
            check_name(name)
    with tempfile.TemporaryDirectory(prefix="hf-detr-panoptic-") as scratch, clear_errors(Path(scratch)):
        uploads = []
        if run is not None and repository is not None:
            folder = run_folder(run)
            recipe = finished_recipe(folder)
            uploads += stage_uploads(folder, repository, recipe, data, license) if stages else []
            uploads.append(final_upload(folder, repository, recipe, data, license))
        if metric:
            uploads.insert(0, _metric_upload(Path(scratch) / "metric", metric))
        if data:
            uploads.insert(0, _data_upload(Path(scratch) / "data", Path(data[0]), data[1], license))
        if demo and repository:
            uploads.append(_demo_upload(demo, repository))
        if not uploads:
            raise HubError("nothing to push is named", fix="Such as `hf-detr-panoptic push runs/site user/site`.")
        yield uploads


def draw_pictures(run: str | Path | None, count: int) -> None:
    """For the card, into the run's folder, where they stay for the next push."""
    from .card_pictures import draw_card_pictures

    if run is None:
        raise HubError(
            "pictures are of a model", where="--pictures", fix="Name the run and the model's repository too."
        )
    folder = run_folder(run)
    draw_card_pictures(folder, finished_recipe(folder), count)


def listing(upload: Upload) -> list[str]:
    """A revision's files and their sizes."""
    from ...hub.contents import size_of

    lines = [f"  {_size(size_of(content)):>9}  {path}" for path, content in sorted(upload.files.items())]
    return [f"{upload.where}: {_count(upload)}", *lines]


def run_folder(run: str | Path) -> Path:
    """The folder of a run; raises where it is something else."""
    from ...training.run_folder import RECIPE

    folder = Path(run)
    if not folder.is_dir():
        known = sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []
        what = "is a file" if folder.exists() else "is not there"
        raise HubError(f"the run {what}", where=str(run), fix=did_you_mean(folder.name, known))
    if not (folder / RECIPE).is_file():
        above = folder.resolve().parent
        fix = f"That is one of its folders: give {above}." if (above / RECIPE).is_file() else "Give one of `train`."
        raise HubError(f"this is not a run's folder: there is no {RECIPE}", where=str(run), fix=fix)
    return folder


def finished_recipe(run: Path) -> Recipe:
    """The recipe of a run that is finished; raises where it is not."""
    from ...recipe import Recipe, read_yaml
    from ...training.run_folder import RECIPE, finished, stage_folder

    recipe = Recipe.from_dict(read_yaml(run / RECIPE)[0], where=str(run / RECIPE))
    for stage in recipe.stages.to_run:
        try:
            end = finished(run, stage.name)
        except (ValueError, KeyError, TypeError) as error:
            where = str(stage_folder(run, stage.name) / "complete.json")
            raise HubError(f"this cannot be read ({error})", where=where, fix="Train the stage again.") from error
        if end is None:
            state = "is not finished" if stage_folder(run, stage.name).is_dir() else "has not begun"
            raise HubError(
                f"the run is incomplete: the stage {stage.name} {state}",
                where=str(run),
                fix=f"Finish it: hf-detr-panoptic train {run / RECIPE}. A stage that you do without: `skip: true`.",
            )
    return recipe


def stage_uploads(
    run: Path, repository: str, recipe: Recipe, data: tuple[str | Path, str] | None, license: str | None
) -> list[Upload]:
    """The branches of the stages that are finished."""
    from ...settings import STAGES
    from ...training.run_folder import finished

    names = [name for name in STAGES if finished(run, name) is not None]
    return [stage_upload(run, name, repository, recipe, data, license) for name in names]


def stage_upload(
    run: Path, stage: str, repository: str, recipe: Recipe, data: tuple[str | Path, str] | None, license: str | None
) -> Upload:
    """A finished stage, for its branch."""
    from ...hub.contents import OLD_WEIGHTS, Upload, model_files, stage_card
    from ...hub.model_card import handler_source
    from ...training.run_folder import stage_folder

    files = model_files(stage_folder(run, stage), run)
    files["README.md"] = stage_card(stage, repository, license)
    files["handler.py"] = handler_source().encode()
    files["requirements.txt"] = b"timm\n"  # the handler's; main has it from its card's files
    files["recipe.yaml"] = published_recipe(run, recipe, data)
    return Upload(repository, files, f"Stage {stage}", revision=stage, replaces=OLD_WEIGHTS)


def final_upload(
    run: Path, repository: str, recipe: Recipe, data: tuple[str | Path, str] | None, license: str | None
) -> Upload:
    """The final model with its card, for main."""
    from ...hub.contents import OLD_WEIGHTS, Upload, model_files
    from ...hub.model_card import handler_source, model_card_files
    from ...settings import STAGES
    from ...training.run_folder import RECIPE, stage_folder

    final = run / "final"
    again = f"Run `hf-detr-panoptic train {run / RECIPE}` once more: what is finished is only copied."
    if not final.is_dir():
        raise HubError("the run is incomplete: there is no final/", where=str(run), fix=again)
    files: Files = model_files(final, run)
    last = [stage_folder(run, stage.name) for stage in recipe.stages.to_run][-1]
    if not _alike(files, model_files(last, run)):
        raise HubError(f"final/ is not what {last.name}/ ended with", where=str(run), fix=again)
    files |= {name: run / name for name in _FIGURES if (run / name).is_file()}
    files["handler.py"] = handler_source().encode()
    files["recipe.yaml"] = published_recipe(run, recipe, data)
    files |= model_card_files(run, repository, license=license, data_repository=data[1] if data else None)
    stages = ", ".join(stage for stage in STAGES if stage in {stage.name for stage in recipe.stages.to_run})
    return Upload(repository, files, f"The final model, after {stages}", replaces=OLD_WEIGHTS)


def _alike(files: Files, others: Files) -> bool:
    from filecmp import cmp

    return files.keys() == others.keys() and all(
        cmp(one, others[name], shallow=False) for name, one in files.items() if isinstance(one, Path)
    )


def published_recipe(run: Path, recipe: Recipe, data: tuple[str | Path, str] | None) -> bytes:
    """recipe.yaml for others: relative paths, nobody's name, no push; the dataset by its name if it is pushed too."""
    from ...hub.contents import without_places
    from ...recipe import write_yaml

    content = without_places(recipe.to_dict() | {"push": None}, Path.cwd(), _people())
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
    from ...dataset.rows import SPACE_FILE, load_panoptic, write_parquet
    from ...hub.contents import OLD_DATA, Upload
    from ...hub.dataset_card import dataset_card

    if not folder.is_dir():
        raise HubError("the dataset is not there", where=str(folder), fix="Give the folder that `prepare` wrote.")
    paths = [*write_parquet(load_panoptic(folder), scratch), scratch / SPACE_FILE]
    files: Files = {path.relative_to(scratch).as_posix(): path for path in paths}
    files["README.md"] = dataset_card(folder, repository, license=license).encode()
    return Upload(repository, files, "The dataset", kind="dataset", replaces=OLD_DATA, holds=SPACE_FILE)


def _metric_upload(scratch: Path, repository: str) -> Upload:
    from ...evaluation.export import SIBLINGS, export_metric
    from ...hub.contents import Upload

    folder = export_metric(scratch, repository)
    files: Files = {path.name: path for path in sorted(folder.iterdir())}
    return Upload(repository, files, "The metric", kind="space", holds=SIBLINGS[-1], sdk="static")


def _demo_upload(repository: str, model: str) -> Upload:
    from ...hub.contents import Upload
    from ...hub.space import space_files
    from ..app import example_photos

    files: Files = space_files(model, model.split("/")[1], example_photos())
    return Upload(repository, files, "The demo", kind="space", replaces=("*.whl",), holds="*.whl", sdk="gradio")


def _count(upload: Upload) -> str:
    return f"{len(upload.files)} files, {_size(upload.size)}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
