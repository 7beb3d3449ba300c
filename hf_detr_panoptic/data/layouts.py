"""Where the files of a COCO panoptic dataset lie: ours, COCO's own and Cityscapes', recognised by content."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..errors import DatasetError, did_you_mean
from .findings import fail

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".heic"))
UNFINISHED = ".incomplete"  # lies in annotations/ while a dataset is being written

_ALIASES = {"validation": "val", "valid": "val", "dev": "val", "training": "train", "testing": "test"}
_OFFICIAL = re.compile(r"(cityscapes_)?panoptic_(train|val|test)(20\d\d)?(_trainId)?")
_CITYSCAPES = re.compile(r"^(?P<city>[^/_]+)_(?P<shot>.+?)(_gtFine)?_leftImg8bit\.png$")


@dataclass(frozen=True)
class SplitFiles:
    """One split on disk: its JSON, the folder of its PNGs, and the folders in which its photos may lie."""

    split: str
    root: Path
    json: Path
    pngs: Path
    photo_folders: tuple[Path, ...]
    _lucky: list[Path] = field(default_factory=list, compare=False, repr=False)

    @property
    def instances(self) -> Path:
        """The instances JSON beside the panoptic one, if there is one."""
        return self.json.with_name(self.json.name.replace("panoptic", "instances"))

    def png(self, file_name: str) -> Path:
        """The id map of a name in the JSON."""
        path = self.find_png(file_name)
        if path is None:
            fail("png-missing", self.json.name, f"{file_name} is not in {self.pngs.name}/")
        return self._contained(path, file_name)

    def photo(self, file_name: str) -> Path:
        """The photo of a name in the JSON."""
        path = self.find_photo(file_name)
        if path is None:
            places = ", ".join(folder.name for folder in self.photo_folders)
            fail("photo-missing", self.json.name, f"{file_name} is in none of {places}")
        return self._contained(path, file_name)

    def find_png(self, file_name: str) -> Path | None:
        name = inside(file_name)
        path = self.pngs / name if name else None
        return path if path and path.is_file() else None

    def find_photo(self, file_name: str) -> Path | None:
        if name := inside(file_name):
            for folder in [*self._lucky, *self.photo_folders]:
                for candidate in (folder / name, *_cityscapes(folder, name)):
                    if candidate.is_file():
                        self._lucky[:] = [folder]
                        return candidate
        return None

    @property
    def photo_home(self) -> Path | None:
        """The folder in which a photo was found last."""
        return self._lucky[0] if self._lucky else None

    def escapes(self, path: Path) -> bool:
        """Does a symbolic link lead out of the dataset? It would publish a file of this machine with it."""
        real = path.resolve()
        homes = [folder for folder in (self.root, *self.photo_folders) if not folder.is_symlink()]
        return not any(real.is_relative_to(home) for home in homes)

    def _contained(self, path: Path, file_name: str) -> Path:
        if self.escapes(path):
            fail("unsafe-name", self.json.name, f"{file_name} is a link to a place outside")
        return path


def inside(file_name: str) -> PurePosixPath | None:
    """The name as a relative path, None if it leads out of its folder. Windows' separators are understood."""
    name = PurePosixPath(file_name.replace("\\", "/"))
    leads_out = name.is_absolute() or ".." in name.parts or not name.name or "\0" in file_name or ":" in name.parts[0]
    return None if leads_out else name


def find_splits(folder: Path, photos: Path | None = None) -> dict[str, SplitFiles]:
    """Split name → its files. `photos` says where the photos are, if the folder itself does not hold them."""
    if not Path(folder).is_dir():
        raise DatasetError("there is no such folder", where=str(folder))
    folder = Path(folder).resolve()
    found: dict[str, SplitFiles] = {}
    for path in _panoptic_jsons(folder):
        split = split_name(path)
        if split in found:
            # Cityscapes ships each list twice, by id and by trainId; the pixels and the names are the same.
            if path.stem.endswith("_trainId"):
                continue
            split = path.stem
        found[split] = SplitFiles(split, folder, path, _png_folder(path), _photo_folders(folder, path, split, photos))
    if not found:
        raise DatasetError(
            "no COCO panoptic JSON is here",
            where=str(folder),
            fix="Expected annotations/panoptic_train.json and annotations/panoptic_train/*.png.",
        )
    order = {"train": 0, "val": 1, "test": 2}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], 3), item[0])))


def find_split(folder: Path, split: str, photos: Path | None = None) -> SplitFiles:
    splits = find_splits(folder, photos)
    wanted = _ALIASES.get(split, split)
    if wanted not in splits:
        raise DatasetError(f"there is no split called {split!r}", where=str(folder), fix=did_you_mean(split, splits))
    return splits[wanted]


def split_name(json: Path) -> str:
    """panoptic_train2017.json, cityscapes_panoptic_train_trainId.json → train."""
    stem = re.sub(r"_trainId$", "", json.stem)
    rest = re.sub(r"^.*?panoptic_?", "", stem) if "panoptic" in stem else stem
    rest = re.sub(r"(?<=[a-z])20\d\d$", "", rest)
    return _ALIASES.get(rest, rest) or "all"


def _panoptic_jsons(folder: Path) -> Iterator[Path]:
    candidates = sorted(itertools.chain(folder.glob("*.json"), folder.glob("*/*.json")))
    for path in sorted(candidates, key=lambda path: path.stem.endswith("_trainId")):
        named = "panoptic" in path.stem or path.with_suffix("").is_dir()
        if named and _mentions(path, b'"segments_info"'):
            yield path


def _mentions(path: Path, word: bytes) -> bool:
    """Does the file hold the word? COCO lists megabytes of images before the first annotation, so all of it counts."""
    tail = b""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            if word in tail + block:
                return True
            tail = block[-len(word) :]
    # An empty or broken file under the official name is a dataset too, one that has something wrong with it.
    return _OFFICIAL.fullmatch(path.stem) is not None


def _png_folder(json: Path) -> Path:
    folder = json.with_suffix("")
    if not folder.is_dir() and any(json.parent.glob("*.png")):
        return json.parent
    return folder


def _photo_folders(root: Path, json: Path, split: str, photos: Path | None) -> tuple[Path, ...]:
    if photos is not None:
        return (Path(photos).resolve(),)
    stem = re.sub(r"^.*?panoptic_?", "", re.sub(r"_trainId$", "", json.stem))  # train2017, as COCO names the folder
    names = [f"{base}{name}" for name in (stem, split) for base in ("images/", "leftImg8bit/", "")]
    homes = [home for home in dict.fromkeys((root, json.parent, json.parent.parent)) if home.is_relative_to(root)]
    if json.parent == root and root.name == "gtFine":  # Cityscapes keeps photos and truth side by side
        homes.append(root.parent)
    places = ["images", *names, "input_images", "photos", "."]
    folders = [home / place for home, place in itertools.product(homes, places)]
    return tuple(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def _cityscapes(folder: Path, name: PurePosixPath) -> Iterator[Path]:
    """The JSON's aachen_000000_000019_gtFine_leftImg8bit.png is aachen/aachen_000000_000019_leftImg8bit.png."""
    if match := _CITYSCAPES.match(name.name):
        yield folder / match["city"] / f"{match['city']}_{match['shot']}_leftImg8bit.png"
