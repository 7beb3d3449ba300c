"""Classes changed afterwards: a finished dataset or model with others names, weights following."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checked import Settings
from ..dataset.coco_panoptic import PanopticSplit, read_dataset
from ..dataset.writer import SPLITS, rewrite
from ..errors import DatasetError, RecipeError, clear_errors, did_you_mean
from ..files import read_json, read_yaml, write_json
from ..images import list_images
from ..labels import LabelSpace
from ..lock import locked
from ..recipe import Recipe, add_flags
from ..settings import ClassChanges
from ..text import count_of

if TYPE_CHECKING:
    from ..model.modeling import DetrForPanopticSegmentation

PHOTOS = 8  # on which joined classes learn to be as sure as their members were


def changed_space(space: LabelSpace, changes: Any) -> tuple[LabelSpace, dict[str, str | None]]:
    """The classes after these `ClassChanges`, and old name → new one, None where it becomes void."""
    orders = {"drop": changes.drop, "merge": changes.merge, "rename": changes.rename}
    new = space.merged(LabelSpace([]), **orders, things=changes.things, stuff=changes.stuff)
    if not new:
        raise RecipeError("no class is left", fix="Drop fewer.")
    return new, space.mapping(**orders)


def relabel_model(
    model: DetrForPanopticSegmentation, changes: Any, photos: Iterable[Any] = ()
) -> tuple[LabelSpace, str]:
    """Give a model other classes, in place: a renamed class keeps its row; for a joined one see `carry_classes`.

    Returns its classes, and in words what became of the rows. Of a dropped class the row goes: what it was surest of
    is nothing now, or, for a tenth of the pixels on the demo, what it was second surest of.
    """
    before = model.label_space
    space, fate = changed_space(before, changes)
    origins: dict[str, list[str]] = {}
    for old, new in fate.items():
        if new is not None and new != old:
            origins.setdefault(new, []).append(old)
    return space, model.carry_classes(space, before, origins, photos)


def relabel_dataset(dataset: Mapping[str, PanopticSplit], changes: Any, out: Path) -> LabelSpace:
    """The same photos, on the same sides, with other classes, in a new folder."""
    first = next(iter(dataset.values()))
    space, fate = changed_space(first.space, changes)
    sides = {name: name if name in SPLITS else "train" for name in dataset}
    rewrite(out, dataset, {record.file_name: sides[name] for name in dataset for record in dataset[name]}, space, fate)
    path = first.files.root / "prepare.json"
    record = read_json(path, DatasetError) if path.is_file() else {"format": 1}
    write_json(out / "prepare.json", _told(record, changes, fate), ascii_only=False)
    return space


def _told(record: Any, changes: Any, fate: Mapping[str, str | None]) -> Any:
    """prepare.json with what was done since: whoever starts from a model of the old names goes by it."""
    if not isinstance(record, dict):
        return record
    step = {key: value for key, value in changes.to_dict().items() if value}
    earlier, counts = record.get("relabelled"), record.get("counts")
    told = {**record, "relabelled": [*(earlier if isinstance(earlier, list) else ()), step]}
    if isinstance(counts, dict) and isinstance(counts.get("segments"), dict):
        segments: dict[str, Counter[str]] = {}
        for old, sources in counts["segments"].items():
            if (new := fate.get(old, old)) is not None and isinstance(sources, dict):
                numbers = {source: number for source, number in sources.items() if isinstance(number, int)}
                segments.setdefault(new, Counter()).update(numbers)
        told["counts"] = {**counts, "segments": {name: dict(sources) for name, sources in segments.items()}}
    return told


def model_in(folder: Path) -> Path | None:
    """The model that a folder holds: it is one, or a run's."""
    homes = (folder, folder / "final")
    return next((home for home in homes if (home / "config.json").is_file()), None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DATASET_OR_RUN", help="a dataset, a run or a model")
    add_flags(parser, ClassChanges, ClassChanges.model_fields)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder for what comes of it")
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="DIR",
        help=f"for --merge on a model: photos, {PHOTOS} of which it sees to be as sure of a group as of its members. "
        "A dataset's folder will do (default: the run's own, if it is here)",
    )


def main(args: argparse.Namespace) -> int:
    """Other classes for a finished dataset or model: renamed, joined, dropped. Nothing is labelled or trained again.

      hf-detr-panoptic relabel data/site --rename hood=bonnet --merge vehicle=car,truck --out data/site2
      hf-detr-panoptic relabel runs/site --rename hood=bonnet --merge vehicle=car,truck --out models/site2

    The same words for both, and the model fits the dataset. Photos stay on their sides. A renamed class keeps its
    weights. A joined one is as probable as its members were together, or as near to that as its one row can be.
    """
    typed = {name: getattr(args, name) for name in ClassChanges.model_fields if getattr(args, name) is not None}
    changes: Settings = ClassChanges.read(typed)
    if not typed:
        raise RecipeError("nothing is to be changed", fix="Give --rename, --merge or --drop.")
    folder: Path = args.folder
    if not folder.is_dir():
        near = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise DatasetError("there is no such folder", where=str(folder), fix=did_you_mean(folder.name, near))
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise DatasetError("there is something already", where=str(args.out), fix="Give --out a new folder.")
    home = model_in(folder)
    out, words = shlex.quote(str(args.out)), _words(changes)
    with clear_errors(args.out), locked(args.out):
        if home is None:
            space = relabel_dataset(read_dataset(folder), changes, args.out)
            print(f"{count_of(len(space), 'class', 'classes')}: {args.out}")
            print(f"prepare would make it from your marks with the same words: prepare … {words}")
            print(f"next: hf-detr-panoptic check {out}")
            return 0
        from ..model.modeling import DetrForPanopticSegmentation

        model: Any = DetrForPanopticSegmentation.from_pretrained(home)
        photos = _photos(args.photos, folder)
        space, carried = relabel_model(model, changes, photos)
        model.save_pretrained(args.out)
    print(f"{carried}: {args.out}")
    if getattr(changes, "merge", None) and not photos:
        print("no photo was at hand, so a joined class may be less sure than its members: --photos DIR")
    print(f"next: hf-detr-panoptic relabel DATASET {words} --out NEW, and train RECIPE --model {out} --data NEW")
    return 0


def _words(changes: Any) -> str:
    words: list[str] = []
    for key, value in changes.to_dict().items():
        pairs = value.items() if isinstance(value, dict) else [(None, value)] if value else []
        for name, one in pairs:
            text = ",".join(one) if isinstance(one, list | tuple) else str(one)
            words += [f"--{key}", text if name is None else f"{name}={text}"]
    return shlex.join(words)


def _photos(given: Path | None, run: Path) -> Sequence[Path]:
    """A few photos, spread evenly over a folder's, or over those that the run learnt from where they are here."""
    folder = given or _data_of(run)
    if folder is None or (given is None and not folder.is_dir()):
        return ()
    images = folder / "images"
    every = list_images(images if (folder / "annotations").is_dir() and images.is_dir() else folder)
    return every[:: max(len(every) // PHOTOS, 1)][:PHOTOS]


def _data_of(run: Path) -> Path | None:
    """The dataset that a run's recipe names."""
    path = run / "recipe.yaml"
    if not path.is_file():
        return None
    recipe = Recipe.from_dict(read_yaml(path)[0], where=str(path))
    return recipe.prepared_folder or Path(str(recipe.data))
