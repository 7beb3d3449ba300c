"""The labeler's raw answers on disk: a PNG of segment ids for each photo, names and scores in its text chunk.

One file a photo, so that an answer is there whole or not at all. It is named by the photo's content and lies in a
folder named by everything else that decides it, so that what is there never has to be made again.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dataset.writer import encode_ids
from ..errors import DatasetError, HfDetrPanopticError
from ..files import content_of, parse_json, write_bytes
from ..images import open_lazily
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap, Segment, rgb_to_ids

FORMAT = 1  # counts up whenever the same labeler and settings would answer otherwise

_ABOUT = "labeler.json"
_KEYWORD = b"hf_detr_panoptic"
_FEATURES = b"hf_detr_panoptic_features"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33  # signature and IHDR


@dataclass(frozen=True)
class AutoLabels:
    """The answers of one labeler under one set of settings: `folder`/<digest of the photo>.png."""

    folder: Path
    space: LabelSpace

    @classmethod
    def open(cls, home: Path, space: LabelSpace, settings: Mapping[str, Any]) -> AutoLabels:
        """The folder in `home` for these settings, made if it is not there. The settings are all that matters."""
        payload = {"format": FORMAT, **settings, "categories": space.to_coco()}
        key = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()[:16]
        labels = cls(home / key, space)
        content = (json.dumps(payload, indent=1, sort_keys=True) + "\n").encode()
        path = labels.folder / _ABOUT
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content, shared=True)
        return labels

    @classmethod
    def in_folder(cls, folder: Path) -> AutoLabels:
        """The answers in a folder, or in the only folder of that kind inside it: no model is needed to read them."""
        homes = [folder] if (folder / _ABOUT).is_file() else sorted(path.parent for path in folder.glob(f"*/{_ABOUT}"))
        if len(homes) != 1:
            names = ", ".join(home.name for home in homes[:5])
            raise DatasetError(
                f"auto-labels of {len(homes)} runs lie here ({names})" if homes else "no auto-labels are here",
                where=str(folder),
                fix="Name the folder of one." if homes else "Run hf-detr-panoptic autolabel first.",
            )
        try:
            payload = parse_json(content_of(homes[0] / _ABOUT))
            return cls(homes[0], LabelSpace.from_coco(payload["categories"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{_ABOUT} cannot be read ({error})", where=str(homes[0]), fix="Run hf-detr-panoptic autolabel again."
            ) from error

    @property
    def settings(self) -> dict[str, Any]:
        """What decided these answers, but for the categories."""
        payload: dict[str, Any] = parse_json(content_of(self.folder / _ABOUT))
        return {key: value for key, value in payload.items() if key != "categories"}

    def path(self, digest: str) -> Path:
        return self.folder / f"{digest}.png"

    def has(self, digest: str) -> bool:
        """Whether the answer is there, every byte of it: what a power cut tore is made again."""
        try:
            return any(kind == b"tEXt" for kind, _ in _chunks(self.path(digest).read_bytes()))
        except (FileNotFoundError, ValueError):
            return False

    def write(self, digest: str, panoptic: PanopticMap, features: npt.NDArray[np.floating[Any]] | None = None) -> None:
        """`features`: [d], what else the labeler says of the photo, see `Labeler`; kept in half precision."""
        segments = [
            {"id": segment.id, "name": panoptic.space[segment.label].name, "score": segment.score}
            for segment in panoptic.segments
        ]
        text = _KEYWORD + b"\0" + json.dumps({"segments": segments}).encode("ascii")
        chunks = _chunk(b"tEXt", text)
        if features is not None:
            chunks += _chunk(b"tEXt", _FEATURES + b"\0" + b64encode(features.astype("<f2").tobytes()))
        png = encode_ids(panoptic.ids)
        write_bytes(self.path(digest), png[:_HEADER_END] + chunks + png[_HEADER_END:], shared=True)

    def features(self, digest: str) -> npt.NDArray[np.float32] | None:
        """float32 [d] of a photo; None where the labeler had none to offer, or there is no answer."""
        try:
            texts = [body for kind, body in _chunks(self.path(digest).read_bytes()) if kind == b"tEXt"]
            coded = next((text for text in texts if text.startswith(_FEATURES + b"\0")), None)
            return None if coded is None else np.frombuffer(b64decode(coded[len(_FEATURES) + 1 :]), "<f2").astype("f4")
        except (OSError, ValueError):
            return None

    def read(self, digest: str) -> PanopticMap:
        """The answer for a photo; its segments are `auto`."""
        path = self.path(digest)
        try:
            content = path.read_bytes()
            text = next(body for kind, body in _chunks(content) if kind == b"tEXt")
            payload = parse_json(text.removeprefix(_KEYWORD + b"\0"))
            segments = [
                Segment(entry["id"], self.space.index(entry["name"]), entry["score"], "auto")
                for entry in payload["segments"]
            ]
            with open_lazily(content) as image:
                ids = rgb_to_ids(np.asarray(image))
            ids.flags.writeable = False  # nobody else has it: the map need not copy it
            return PanopticMap(ids, segments, self.space)
        except (OSError, ValueError, KeyError, TypeError, StopIteration, HfDetrPanopticError) as error:
            raise DatasetError(
                f"the auto-label cannot be read ({error})",
                where=f"{path.parent.name}/{path.name}",
                fix="Delete the file and run the same command again.",
            ) from error

    def sweep(self) -> None:
        """Take away what killed processes left half written. Only once everything is there: nobody is writing then."""
        for path in self.folder.glob(".*.part"):
            path.unlink(missing_ok=True)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every chunk of a PNG that is whole; ValueError where it is not."""
    if not png.startswith(_SIGNATURE):
        raise ValueError("not a PNG")
    start, kind = len(_SIGNATURE), b""
    chunks = []
    while kind != b"IEND":
        head = png[start : start + 8]
        if len(head) < 8:
            raise ValueError("cut off")
        length, kind = struct.unpack(">I4s", head)
        body = png[start + 8 : start + 8 + length]
        checksum = png[start + 8 + length : start + 12 + length]
        if len(checksum) < 4 or zlib.crc32(kind + body) != int.from_bytes(checksum):
            raise ValueError(f"the chunk {kind!r} is damaged")
        chunks.append((kind, body))
        start += 12 + length
    yield from chunks
