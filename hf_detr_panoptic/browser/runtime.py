"""An exported model in onnxruntime: photos in, panoptic maps out, as `DetrForPanopticSegmentation.segment`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..files import content_of, read_json
from ..labels import LabelSpace
from ..model import segment
from ..model.checkpoints import readable
from ..model.postprocess import Kept
from ..panoptic_map import PanopticMap
from ..preprocess import Preprocess
from ..settings import Postprocess
from .folder import DETECTOR, FORMAT, INSTALL, MASKS, RECORD


class OnnxModel:
    """A folder that `hf-detr-panoptic export` wrote. Photos are prepared, and maps made, as everywhere in this house.

    `evaluate_model` and `predict` take it for a model; it runs on the CPU, in float32.
    """

    training = False

    def __init__(
        self,
        detector: bytes,
        masks: bytes,
        label_space: LabelSpace,
        preprocess: Preprocess,
        settings: Postprocess,
        where: str = "",
    ) -> None:
        self.label_space, self.preprocess, self.settings = label_space, preprocess, settings
        self._detector, self._masks = session(detector, f"{where}{DETECTOR}"), session(masks, f"{where}{MASKS}")
        self._shared = [each.name for each in self._masks.get_inputs() if each.name != "states"]
        self._digest = hashlib.sha256(detector + masks)

    @classmethod
    def from_folder(cls, folder: str | Path) -> OnnxModel:
        """Raises where a file is missing, or is not the one that was verified."""
        folder = Path(folder)
        if not (folder / RECORD).is_file():
            raise ModelError(
                "this is no exported model",
                where=str(folder),
                fix=f"Write one: hf-detr-panoptic export {folder} --out DIR; then give that folder.",
            )
        record = read_json(folder / RECORD, ModelError, "Export the model again.")
        if not isinstance(record, dict) or record.get("format") != FORMAT or not isinstance(record.get("files"), dict):
            fix = "Export the model again, or upgrade hf-detr-panoptic."
            raise ModelError(f"is not a record of format {FORMAT}", where=str(folder / RECORD), fix=fix)
        contents = {}
        for name in (DETECTOR, MASKS):
            try:
                contents[name] = content_of(folder / name)
            except OSError as error:
                raise ModelError(
                    f"cannot be read ({error.strerror})", where=str(folder / name), fix="Export the model again."
                ) from error
            if hashlib.sha256(contents[name]).hexdigest() != record["files"].get(name):
                raise ModelError(
                    "is not the file that was verified", where=str(folder / name), fix="Copy or export it again."
                )
        config, processor = (
            read_json(folder / name, ModelError, "Export the model again.")
            for name in ("config.json", "preprocessor_config.json")
        )
        with readable(str(folder), "the settings cannot be read", "Export the model again."):
            remembered = config.get("hf_detr_panoptic") or {}
            return cls(
                contents[DETECTOR],
                contents[MASKS],
                LabelSpace.from_config(config),
                Preprocess.from_image_processor(processor),
                Postprocess(**{key: remembered[key] for key in Postprocess.model_fields if key in remembered}),
                where=f"{folder}/",
            )

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of graphs, classes, preprocessing and settings."""
        digest = self._digest.copy()
        settings = [asdict(self.preprocess), self.settings.to_dict(), self.label_space.to_config()]
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        return digest.hexdigest()[:16]

    def train(self, mode: bool = True) -> OnnxModel:
        """For those who put a model back into training; a graph never is."""
        return self

    def eval(self) -> OnnxModel:
        return self

    def segment(
        self,
        images: Any,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        min_area: int | None = None,
        fill: str | None = None,
        duplicate: float | None = None,
        *,
        precision: str = "fp32",
        batch_size: int = 4,
    ) -> list[PanopticMap]:
        """Photos → a map each, at the photo's own size; see `DetrForPanopticSegmentation.segment`."""
        given: dict[str, Any] = {"threshold": threshold, "mask_threshold": mask_threshold, "min_area": min_area}
        given |= {"fill": fill, "duplicate": duplicate}
        settings = self.settings.changed(**{name: value for name, value in given.items() if value is not None})
        return segment.segment(self, images, settings, precision=precision, batch_size=batch_size)

    def chosen_masks(
        self, pixel_values: Tensor, choose: Callable[[Tensor], list[Kept]], precision: str = "fp32"
    ) -> list[tuple[Kept, Tensor]]:
        """See `DetrForPanopticSegmentation.chosen_masks`."""
        if precision != "fp32":
            raise ModelError(f"an exported model computes in fp32, not {precision}", fix="Leave --precision out.")
        found = self.detect(pixel_values)
        kept = choose(found["logits"])
        return [(chosen, self.masks(found, image, chosen.queries)) for image, chosen in enumerate(kept)]

    def detect(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """All that the detector gives for photos [B, 3, H, W], by name."""
        return run(self._detector, {"pixel_values": pixel_values})

    def masks(self, found: dict[str, Tensor], image: int, queries: Tensor) -> Tensor:
        """Mask logits [K, h, w] of these queries of one image; the graph does not run without any."""
        if not len(queries):
            return torch.zeros(0, 1, 1)
        inputs = {name: found[name][image : image + 1] for name in self._shared}
        return run(self._masks, inputs | {"states": found["states"][image : image + 1, queries]})["pred_masks"][0]


def session(graph: bytes, where: str) -> Any:
    """A graph ready to run on the CPU, in as many threads as torch has."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError("running a graph needs onnxruntime", fix=INSTALL) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ModelError(
            f"is no graph that onnxruntime can run ({reason})", where=where, fix="Export it again."
        ) from error


def run(graph: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a graph gives, by name."""
    names = [each.name for each in graph.get_outputs()]
    values = graph.run(None, {name: value.contiguous().cpu().numpy() for name, value in inputs.items()})
    return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}
