"""DETR with a mask head: stock's parameters and keys, exact and fast."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DetrConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.models.detr.modeling_detr import DetrForSegmentation, DetrSegmentationOutput
from transformers.utils.generic import can_return_tuple

from ..errors import LabelError, ModelError
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap
from ..preprocess import Preprocess
from ..settings import Postprocess
from . import checkpoints as loading
from . import segment
from .checkpoints import DETECTION_KEYS, carry_classes, query_states, strengthen_attention
from .criterion import Denominators, criterion, losses_of, take_coefficients
from .detector import Detection, check_finite, check_pixels, classes_and_boxes, detect
from .mask_head import SharedMaskFeatures, dense_masks, fast_layout, masks_for, owners_of, shared_mask_features
from .matcher import MatchCosts, Matching, Predictions, match
from .parts import PAPER_FROZEN, check_maps, part_modules
from .postprocess import Kept
from .targets import Targets

if TYPE_CHECKING:
    from transformers import DetrImageProcessor


logger = logging.getLogger(__name__)


@dataclass
class PanopticOutput(DetrSegmentationOutput):
    """Stock's output, and of a forward with labels the pairs it learnt from.

    matched_masks: float [K, h, w], the mask logits of the matched queries, in the order of `matching` (of the
    confident ones among them, where the model has a `mask_query_threshold`).
    """

    matched_masks: Tensor | None = None
    matching: Matching | None = None


class DetrForPanopticSegmentation(DetrForSegmentation):
    """DETR with a mask head, same parameters and keys as `DetrForSegmentation`, exact and fast.

    Without labels a forward returns what stock returns. With labels it matches first and computes masks for the
    matched queries only: `matched_masks`, and `pred_masks=None` unless `output_masks=True`.
    """

    def __init__(self, config: DetrConfig, label_space: LabelSpace | None = None) -> None:
        config = deepcopy(config)
        if label_space is not None:
            for key, value in label_space.to_config().items():
                setattr(config, key, value)
        try:
            super().__init__(config)
        except IndexError:  # stock's mask head asks for the third of fewer maps
            check_maps(self.detr.model.backbone)
            raise
        check_maps(self.detr.model.backbone)
        self._tell_trainers()
        self.auxiliary_loss = bool((getattr(config, "hf_detr_panoptic", None) or {}).get("auxiliary_loss"))
        self._take_auxiliary_flag()
        self.with_masks = True
        self.mask_query_threshold: float | None = None  # in training: only queries surer than this learn their masks
        self._preprocess = Preprocess()
        self._label_space: tuple[Any, LabelSpace] | None = None
        self._fast = segment.FastCopies()
        self._frozen: tuple[str, ...] = ()
        try:
            self.freeze(*PAPER_FROZEN)
        except ModelError as error:
            logger.warning("stem and layer1 stay trainable: %s", error)

    # --- loading and saving

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        label_space: LabelSpace | None = None,
        stuff: Iterable[str] | None = None,
        image_processor: Preprocess | Any = None,
        **kwargs: Any,
    ) -> DetrForPanopticSegmentation:
        """A panoptic checkpoint with old or new keys, or a detection checkpoint, whose mask head then starts fresh.

        With a `label_space` other than the checkpoint's, class rows are carried over by name. `stuff` names the
        checkpoint's own stuff classes, where neither its configuration nor COCO can say. In float32 unless `dtype`
        says otherwise. Fields of the configuration may be given by name (`dropout=0.0`). `id2label` or `num_labels` of
        another number of classes, as one gives them to any model before fine-tuning, are another label space too.
        """
        name = pretrained_model_name_or_path
        where = str(name)
        known = DetrConfig.__dataclass_fields__.keys() - {"dtype"} | {"num_labels"}
        fields = {key: kwargs.pop(key) for key in list(kwargs) if key in known}
        config = kwargs.pop("config", None)
        wants_info = kwargs.pop("output_loading_info", False)
        sizes_may_differ = kwargs.pop("ignore_mismatched_sizes", False)
        hub = loading.hub_arguments(name, kwargs)
        kwargs |= hub
        kwargs.setdefault("dtype", kwargs.pop("torch_dtype", None) or torch.float32)
        kwargs["key_mapping"] = kwargs.get("key_mapping") or DETECTION_KEYS
        classes: dict[str, Any] = {
            key: fields.pop(key) for key in ("id2label", "label2id", "num_labels") if key in fields
        }
        with loading.readable(where):
            if isinstance(config, DetrConfig):
                config = deepcopy(config)
                config.update(fields)
            else:
                config = loading.read_config(name if config is None else config, hub, fields)
            take_coefficients(config, fields)
            if fields.get("auxiliary_loss") is False and getattr(config, "hf_detr_panoptic", None):
                config.hf_detr_panoptic = {**config.hf_detr_panoptic, "auxiliary_loss": False}
            others = loading.other_classes(config, classes, stuff)
            loaded: Any = super().from_pretrained(
                name, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        model: DetrForPanopticSegmentation = loaded[0]
        info: dict[str, Any] = loaded[1]
        # What was renamed on loading would be renamed back on saving: a detection checkpoint's keys, too.
        vars(model)["_weight_conversions"] = None
        mask_head = {key for key in model.state_dict() if not key.startswith("detr.")}
        fresh = loading.check_everything_found(info, mask_head, where, sizes_may_differ)
        loading.check_finite_weights(model, where)
        if fresh:
            strengthen_attention(model)
            logger.warning("%s is a detection checkpoint: the mask head starts fresh", where)
        model.freeze(*model._frozen)
        with loading.readable(where):
            model._preprocess = loading.read_preprocess(name, hub)
            _ = model.settings  # raises where a value is none that `segment` could go by
        if image_processor is not None:
            model.image_processor = image_processor
        if others is not None and label_space is None:
            model.carry_classes(others, loading.space_in_any_case(model.config))
        elif label_space is not None or stuff is not None:
            source = LabelSpace.from_config(model.config, stuff=stuff)
            wanted = label_space if label_space is not None else source
            if label_space is not None or source.columns == tuple(range(len(model.config.id2label or ()))):
                model.carry_classes(wanted, source)
            else:
                model.config.label_ids_to_fuse = sorted(source.columns[label] for label in source.stuff_labels)
        return (model, info) if wants_info else model  # type: ignore[return-value]

    def _tell_trainers(self) -> None:
        """transformers' Trainer gathers every output but these: of pairs and their masks each batch has its own."""
        self.config.keys_to_ignore_at_inference = ["matching", "matched_masks"]

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """A folder that plain transformers loads as `DetrForSegmentation`, with its image processor."""
        if kwargs.pop("push_to_hub", False):
            raise ModelError(
                "save_pretrained does not push", fix="Use model.push_to_hub(name), or hf_detr_panoptic.push."
            )
        self._take_auxiliary_flag()
        self._remember()
        vars(self.config).pop("keys_to_ignore_at_inference", None)  # plain transformers has none of these outputs
        try:
            super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
            if is_main_process:
                self.config.architectures = [DetrForSegmentation.__name__]
                self.config.save_pretrained(save_directory)
        finally:
            self._tell_trainers()
        if is_main_process:
            self.image_processor.save_pretrained(save_directory)

    def save_settings(self, save_directory: str | os.PathLike[str]) -> None:
        """config.json and preprocessor_config.json alone, as `save_pretrained` writes them, without the weights."""
        self._take_auxiliary_flag()
        self._remember()
        config = deepcopy(self.config)
        vars(config).pop("keys_to_ignore_at_inference", None)
        config.architectures = [DetrForSegmentation.__name__]
        config.save_pretrained(save_directory)
        self.image_processor.save_pretrained(save_directory)

    def carry_classes(
        self,
        label_space: LabelSpace,
        source: LabelSpace | None = None,
        origins: Mapping[str, Sequence[str]] | None = None,
        photos: Iterable[Any] = (),
    ) -> str:
        """Give the model another label space; rows of known names are kept. Returns what happened, in words.

        `origins`: what a class is called in the source, or which ones were joined in it. `photos`: a few like those
        that the model will see; on them it learns to be as sure of a joined class as it was of its members.
        """
        if len(label_space) == 0:
            raise ModelError("the label space is empty", fix="Give it at least one category.")
        few = list(photos)
        states = query_states(self, few) if few and origins else None
        carried = carry_classes(self, source or self.label_space, label_space, origins, states)
        self._label_space = None
        return str(carried)

    # --- what the model remembers

    @property
    def label_space(self) -> LabelSpace:
        """The classes, from the configuration."""
        fused = getattr(self.config, "label_ids_to_fuse", None)
        key = (tuple((self.config.id2label or {}).items()), None if fused is None else tuple(fused))
        if self._label_space is None or self._label_space[0] != key:
            self._label_space = (key, LabelSpace.from_config(self.config))
        return self._label_space[1]

    @property
    def settings(self) -> Postprocess:
        """How maps are made unless `segment` is told otherwise; kept in the configuration."""
        remembered: Mapping[str, Any] = getattr(self.config, "hf_detr_panoptic", None) or {}
        return Postprocess(**{key: value for key, value in remembered.items() if key in Postprocess.model_fields})

    @settings.setter
    def settings(self, settings: Postprocess) -> None:
        remembered = getattr(self.config, "hf_detr_panoptic", None) or {}
        self.config.hf_detr_panoptic = {**remembered, **settings.to_dict()}

    @property
    def preprocess(self) -> Preprocess:
        """How photos become pixel values."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess

    @property
    def image_processor(self) -> DetrImageProcessor:
        """The same as an image processor of transformers, as it is saved. May be set to one, or to a `Preprocess`."""
        return self._preprocess.to_image_processor()

    @image_processor.setter
    def image_processor(self, processor: Any) -> None:
        same = isinstance(processor, Preprocess)
        self._preprocess = processor if same else Preprocess.from_image_processor(processor)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of weights, classes, preprocessing and settings."""
        return segment.fingerprint(self)

    # --- what trains

    def freeze(self, *parts: str) -> None:
        """Freeze exactly these parts ("stem", "layer1", "backbone", "detr", "mask_head", …); the rest trains.

        Frozen parts stay in eval mode whatever `train()` is called with: freezing alone does not stop dropout. With
        "detr" frozen it also learns without a graph, and through the folded backbone.
        """
        modules = [module for part in parts for module in part_modules(self, part)]  # raises where there is none
        self._frozen = parts
        self.requires_grad_(True)
        for module in modules:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> DetrForPanopticSegmentation:
        super().train(mode)
        if mode and hasattr(self, "_frozen"):
            if "detr" not in self._frozen:
                self._fast.clear()
            for part in self._frozen:
                for module in part_modules(self, part):
                    module.eval()
        return self

    # --- forward

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Sequence[Mapping[str, Any]] | None = None,
        output_masks: bool | None = None,
        denominators: Denominators | None = None,
        paper: bool = False,
        segment_scores: bool = False,
        **kwargs: Any,
    ) -> PanopticOutput:
        """pixel_values: float [B, 3, H, W]; pixel_mask: [B, H, W], 1 where the photo is; labels: see `Targets`.

        output_masks: dense masks of all queries; by default without labels only, and never while `with_masks` is off.
        denominators: see `criterion`; `num_items_in_batch`, which a Trainer passes, is understood where it is one.
        paper, segment_scores: see `criterion`.
        """
        items = kwargs.pop("num_items_in_batch", None)
        if denominators is None and isinstance(items, Denominators):
            denominators = items
        if torch.compiler.is_compiling() and labels is None:
            # Nothing here may depend on values when a graph is recorded; stock's own forward does not.
            return super().forward(  # type: ignore[no-any-return]
                pixel_values,
                pixel_mask,
                decoder_attention_mask,
                encoder_outputs,
                None,
                decoder_inputs_embeds,
                **kwargs,
            )
        check_pixels(pixel_values, pixel_mask)
        if labels is None or pixel_values.device.type == "cpu":
            check_finite(pixel_values)  # elsewhere this would wait for the device, and matching finds NaN anyway
        self._take_auxiliary_flag()
        targets = None
        if labels is not None:
            targets = Targets.from_labels(
                labels,
                num_labels=self.detr.class_labels_classifier.out_features - 1,
                canvas=(pixel_values.shape[-2], pixel_values.shape[-1]),
                device=pixel_values.device,
                num_images=len(pixel_values),
                pixel_mask=pixel_mask,
            )
            if all(size == tuple(pixel_values.shape[-2:]) for size in targets.valid_sizes):
                pixel_mask = None
            pixel_values = fast_layout(pixel_values)  # a fifth off a step; without labels the bits stay stock's
        auxiliary = targets is not None and self.auxiliary_loss
        # Nothing is learnt there: without a graph, and through the backbone whose norms are folded.
        frozen = targets is not None and "detr" in self._frozen
        with torch.no_grad() if frozen else nullcontext():
            detection = detect(
                self.detr,
                pixel_values,
                pixel_mask,
                decoder_attention_mask=decoder_attention_mask,
                encoder_outputs=encoder_outputs,
                decoder_inputs_embeds=decoder_inputs_embeds,
                backbone=self._fast.backbone(self, self.dtype) if frozen else None,
                all_layers=auxiliary,
                **kwargs,
            )
            earlier = self._heads_of(detection.earlier_states) if auxiliary else (None, None)
        dense = (labels is None and self.with_masks) if output_masks is None else output_masks
        learn_masks = targets is not None and self.with_masks
        shared = self._shared(detection) if dense or learn_masks else None
        loss, loss_dict, auxiliary_outputs, matched_masks, matching = None, None, None, None, None
        if targets is not None:
            predictions = Predictions(detection.logits, detection.boxes, *earlier)
            matching = match(predictions, targets, MatchCosts.from_config(self.config))
            mask_matching = matching
            if self.mask_query_threshold is not None:
                mask_matching = matching.confident(detection.logits, self.mask_query_threshold)
            if shared is not None and learn_masks:
                images = owners_of(mask_matching.counts)
                wanted = detection.states[mask_matching.image_index, mask_matching.query_index]
                matched_masks = masks_for(self.mask_head, self.bbox_attention, shared, wanted, images)
            loss, loss_dict = criterion(
                predictions,
                targets,
                matching,
                matched_masks,
                weights=losses_of(self.config),
                denominators=denominators,
                paper=paper,
                segment_scores=segment_scores,
                mask_matching=mask_matching,
            )
            if auxiliary:
                layers = predictions.auxiliary()
                auxiliary_outputs = [{"logits": layer.logits, "pred_boxes": layer.boxes} for layer in layers]
        pred_masks = None
        if dense and shared is not None:
            pred_masks = dense_masks(self.mask_head, self.bbox_attention, shared, detection.states)
        return PanopticOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=detection.logits,
            pred_boxes=detection.boxes,
            pred_masks=pred_masks,
            auxiliary_outputs=auxiliary_outputs,
            last_hidden_state=detection.states,
            encoder_last_hidden_state=detection.encoder[0],
            **detection.recorded,
            matched_masks=matched_masks,
            matching=matching,
        )

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
        tile: int | None = None,
        overlap: int | None = None,
    ) -> list[PanopticMap]:
        """Photos → a map each, at the photo's own size, in order; for one photo a list of one.

        images: a PIL image, an array [H, W, 3] or a tensor [3, H, W] of bytes, a path, or any iterable of these; of
        any sizes. What is not given comes from `settings`. Photos are never padded: those of equal size after
        resizing go through the model together, up to `batch_size` of them.

        The detector runs first, masks are computed for the queries that pass only, and the backbone's frozen batch
        norm is folded into its convolutions: exact but for rounding (logits move by about 1e-6 of their size).
        `precision="bf16"` is faster where the processor knows bf16 and moves logits by about 1 %.

        tile: photos with a longer side are seen in tiles of so many pixels, which share `overlap` (an eighth), and
        their maps are joined: stuff is one segment, and so is a thing that several tiles see.
        """
        given: dict[str, Any] = {"threshold": threshold, "mask_threshold": mask_threshold, "min_area": min_area}
        given |= {"fill": fill, "duplicate": duplicate}
        settings = self.settings.changed(**{name: value for name, value in given.items() if value is not None})
        return segment.segment(
            self, images, settings, precision=precision, batch_size=batch_size, tile=tile, overlap=overlap
        )

    def chosen_masks(
        self,
        pixel_values: Tensor,
        choose: Callable[[Tensor], list[Kept]],
        precision: str = "fp32",
        seen: Callable[[Detection], object] | None = None,
    ) -> list[tuple[Kept, Tensor]]:
        """Image by image the queries that `choose` takes of the logits [B, Q, C + 1], and their mask logits [K, h, w].

        pixel_values: float [B, 3, H, W], normalised and without padding. `seen` is shown what DETR made of them, which
        the next call may write over: a hook would be asked too, but what has hooks is not recorded on a GPU.
        """
        return segment.chosen_masks(self, pixel_values, choose, precision, seen)

    def _shared(self, detection: Detection) -> SharedMaskFeatures:
        return shared_mask_features(
            self.mask_head,
            self.bbox_attention,
            detection.projected,
            detection.memory,
            detection.valid,
            detection.features,
        )

    def _heads_of(self, states: Tensor | None) -> tuple[Tensor, Tensor]:
        assert states is not None
        return classes_and_boxes(self.detr, states)

    def _remember(self) -> None:
        """Write what `segment` goes by into the configuration, so that a loaded model segments as this one does."""
        self.settings = self.settings
        if getattr(self.config, "label_ids_to_fuse", None) is None:
            try:
                space = self.label_space
            except LabelError:
                return  # nobody has said which classes are stuff, and nobody has asked yet
            self.config.label_ids_to_fuse = sorted(space.columns[label] for label in space.stuff_labels)

    def _take_auxiliary_flag(self) -> None:
        """Stock's flag changes its forward pass: the wish is kept among ours, and the configuration stays harmless."""
        if self.config.auxiliary_loss:
            self.auxiliary_loss = True
            self.config.auxiliary_loss = False
            remembered = getattr(self.config, "hf_detr_panoptic", None) or {}
            self.config.hf_detr_panoptic = {**remembered, "auxiliary_loss": True}


# A class from outside transformers does not get the renaming of old keys by itself: 32 tensors would stay random.
register_checkpoint_conversion_mapping(
    DetrForPanopticSegmentation.__name__,
    get_checkpoint_conversion_mapping(DetrForSegmentation.__name__),
    overwrite=True,
)
