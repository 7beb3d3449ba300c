"""The bound of an export: what is rounding passes, however coarse float32 is; what is more does not.

The "graph" is the model in float64, which is right by definition, moved by a known share of the range. A bias of 512
ranges makes float32 coarse by construction: its last bit is then between 2^-15 and 2^-14 of the range.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from made import SPACE, tiny_model

from hf_detr_panoptic.browser import graphs, verify
from hf_detr_panoptic.errors import ModelError

SIZE = (37, 41)


@pytest.mark.parametrize(
    ("bias", "moved", "passes"),
    [
        (0, 3e-6, True),
        (0, 3e-5, False),  # fine float32 excuses nothing
        (0, float("nan"), False),
        (512, 2**-16, True),
        (256, 6e-5, False),  # under MOST, yet more than three times as far as torch is
        (8192, 2**-12, False),  # so coarse that nobody can say whether it is right
    ],
)
def test_the_bound_is_what_float32_itself_gives(bias: int, moved: float, passes: bool) -> None:
    model = graphs.reference(tiny_model(SPACE, decoder_layers=1))
    with torch.no_grad():
        masks = model(verify._pictures(model.preprocess, 2, *SIZE)).pred_masks
        span = float(masks.max() - masks.min())
        model.mask_head.output_conv.bias.add_(bias * span)
    exact = deepcopy(model).double()

    def detect(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        found = exact(pixels.double())
        found.pred_masks += moved * span
        return {name: found[name].float() for name in ("logits", "pred_boxes", "pred_masks")}

    def compared() -> dict:
        return verify._compare(
            model, [SIZE], detect, lambda found, image, queries: found["pred_masks"][image, queries]
        )

    if not passes:
        with pytest.raises(ModelError, match=r"masks differ by .*\(from float64 the graph is"):
            compared()
        return
    figures = compared()
    assert ("from_float64" in figures) == (figures["masks"] > 1e-5) == (bias > 0)
    if bias:
        (away,) = figures["from_float64"].values()
        assert 2**-17 < away["torch"] < away["graph"] < 2**-13
        assert figures["logits"] < 1e-6
