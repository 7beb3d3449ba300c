"""The mask head against stock transformers, which computes every query of every image at full size."""

import pytest
import torch
from made import tiny_config
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DetrForSegmentation
from transformers.models.detr.modeling_detr import DetrMaskHeadSmallConv, DetrMHAttentionMap

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.model import mask_head as ours
from hf_detr_panoptic.model.mask_head import dense_masks, masks_for, shared_mask_features

pytestmark = pytest.mark.bits

D, HEADS, FPN_CHANNELS = 32, 8, (24, 16, 12)
SIZES = {
    "even": [(4, 5), (8, 10), (16, 20), (32, 40)],
    "odd": [(4, 5), (7, 9), (13, 17), (25, 33)],
    "mixed": [(4, 5), (8, 9), (15, 18), (30, 35)],
    "dilated": [(8, 9), (8, 9), (15, 18), (30, 35)],
    "other ratios": [(4, 5), (5, 6), (11, 17), (40, 18)],
    "smaller": [(4, 5), (3, 5), (6, 10), (12, 20)],
    "tiny": [(1, 1), (2, 1), (3, 2), (5, 3)],
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class Case:
    """Random modules and inputs of one shape, and what stock makes of them."""

    def __init__(self, sizes, dtype=torch.float64, batch=2, queries=5, padded=True, activation="relu"):
        torch.manual_seed(0)
        self.head = DetrMaskHeadSmallConv(D + HEADS, list(FPN_CHANNELS), D, activation).to(dtype)
        self.attention = DetrMHAttentionMap(D, HEADS).to(dtype)
        for parameter in self.parameters:
            # Norm weights of both signs, biases that matter, attention that is not flat.
            nn.init.normal_(parameter, std=0.3)
        coarse, *fine = sizes

        def leaf(*shape):
            return torch.randn(*shape, dtype=dtype, requires_grad=True)

        self.projected, self.memory = leaf(batch, D, *coarse), leaf(batch, D, *coarse)
        self.fpn = [leaf(batch, channels, *size) for channels, size in zip(FPN_CHANNELS, fine, strict=True)]
        self.queries = leaf(batch, queries, D)
        self.valid = torch.ones(batch, *coarse, dtype=torch.bool)
        if padded:
            self.valid[0, :, coarse[1] // 2 + 1 :] = False
            self.valid[-1, coarse[0] // 2 + 1 :] = False

    @property
    def parameters(self):
        return [*self.head.parameters(), *self.attention.parameters()]

    @property
    def leaves(self):
        return [*self.parameters, self.projected, self.memory, *self.fpn, self.queries]

    def stock(self):
        least = torch.finfo(self.memory.dtype).min
        bias = torch.where(self.valid[:, None, None], torch.zeros((), dtype=self.memory.dtype), least)
        maps = self.attention(self.queries, self.memory, bias)
        masks = self.head(self.projected, maps, self.fpn)
        return masks.view(*self.queries.shape[:2], *masks.shape[-2:])

    def shared(self, valid=True):
        inputs = self.projected, self.memory, self.valid if valid else None, self.fpn
        return shared_mask_features(self.head, self.attention, *inputs)

    def masks_for(self, images, places, chunk=None):
        images, places = torch.tensor(images, dtype=torch.int64), torch.tensor(places, dtype=torch.int64)
        return masks_for(self.head, self.attention, self.shared(), self.queries[images, places], images, chunk)


def assert_same(masks, expected):
    assert masks.shape == expected.shape
    assert masks.dtype == expected.dtype
    torch.testing.assert_close(masks, expected, rtol=0, atol=TOLERANCE[expected.dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_dense_as_stock(sizes, dtype):
    case = Case(sizes, dtype)
    masks = dense_masks(case.head, case.attention, case.shared(), case.queries)
    assert_same(masks, case.stock())
    with torch.no_grad():
        assert_same(dense_masks(case.head, case.attention, case.shared(), case.queries), case.stock())


def test_without_padding_the_validity_may_be_left_out():
    case = Case(SIZES["mixed"], padded=False)
    masks = dense_masks(case.head, case.attention, case.shared(valid=False), case.queries)
    assert_same(masks, case.stock())


def test_an_image_of_padding_alone():
    case = Case(SIZES["even"])
    case.valid[0] = False
    assert_same(dense_masks(case.head, case.attention, case.shared(), case.queries), case.stock())


@pytest.fixture(params=[False, True], ids=["image by image", "images together"])
def together(request, monkeypatch):
    """As on a CPU, and as elsewhere."""
    monkeypatch.setattr(ours, "few_launches", lambda device: request.param)
    return request.param


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize(
    ("images", "places"),
    [
        ([0, 0, 2], [4, 1, 3]),
        ([2, 0, 2, 1, 0], [0, 0, 1, 2, 3]),
        ([1], [4]),
        ([1, 1, 1], [2, 2, 2]),
        ([], []),
    ],
    ids=["an image without any", "unsorted", "one", "one query thrice", "none"],
)
def test_chosen_queries(images, places, chunk, grad, together):
    case = Case(SIZES["mixed"], batch=3)
    with torch.set_grad_enabled(grad):
        masks = case.masks_for(images, places, chunk)
    expected = case.stock()[images, places] if images else case.stock().flatten(0, 1)[:0]
    assert_same(masks, expected)


@pytest.mark.parametrize(
    ("sizes", "kernels"),
    [
        ("even", [2, 2, 2]),
        ("odd", [2, 2, 2]),
        ("mixed", [2, 2, 2]),
        ("dilated", [3, 2, 2]),
        ("other ratios", [3, 3, 3]),
    ],
)
def test_small_kernels_wherever_the_size_doubles(sizes, kernels):
    case = Case(SIZES[sizes])
    assert [kernel.shape[-1] for kernel in ours._query_kernels(case.head, case.shared()).stages] == kernels


@pytest.mark.parametrize(
    ("chunk", "one_by_one", "all_at_once"),
    [(None, [5, 2], [7]), (2, [2, 2, 1, 2], [2, 2, 2, 1]), (1, [1] * 7, [1] * 7)],
)
def test_a_chunk_bounds_what_is_worked_on_at_once(chunk, one_by_one, all_at_once, together):
    worked_on = all_at_once if together else one_by_one
    case, seen = Case(SIZES["odd"]), []
    case.head.output_conv.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    case.masks_for([0, 0, 1, 0, 1, 0, 0], [0, 1, 0, 2, 1, 3, 4], chunk)
    assert seen == worked_on


def test_a_chunk_shrinks_as_maps_grow(monkeypatch):
    case, seen = Case(SIZES["even"]), []
    case.head.output_conv.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    # The largest map of one query is the last stage's: 2 channels of 32 × 40.
    monkeypatch.setitem(ours._CHUNK_FLOATS, "cpu", 3 * 2 * 32 * 40 + 1)
    dense_masks(case.head, case.attention, case.shared(), case.queries)
    assert seen == [3, 2, 3, 2]


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_gradients_as_stock(sizes, chunk, together):
    case = Case(sizes, batch=3)
    images, places = [2, 0, 2, 0, 2], [0, 0, 1, 2, 4]
    expected = case.stock()[images, places]
    weights = torch.randn_like(expected)
    grads = torch.autograd.grad(expected, case.leaves, weights)
    largest = max(grad.norm() for grad in grads)
    found = torch.autograd.grad(case.masks_for(images, places, chunk), case.leaves, weights)
    for grad, mine in zip(grads, found, strict=True):
        assert (grad - mine).norm() <= 1e-10 * largest


def test_no_query_still_reaches_every_parameter_and_input():
    case = Case(SIZES["odd"])
    masks = case.masks_for([], [])
    assert masks.shape == (0, *SIZES["odd"][-1])
    for grad in torch.autograd.grad(masks.sum(), case.leaves):
        assert torch.equal(grad, torch.zeros_like(grad))


def test_a_frozen_trunk_takes_no_gradient():
    case = Case(SIZES["odd"])
    for leaf in (case.projected, case.memory, *case.fpn, case.queries):
        leaf.requires_grad_(False)
    case.masks_for([0, 1], [1, 1]).sum().backward()
    assert all(parameter.grad is not None for parameter in case.parameters)
    assert case.projected.grad is None


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_another_activation(activation):
    case = Case(SIZES["mixed"], activation=activation)
    assert_same(dense_masks(case.head, case.attention, case.shared(), case.queries), case.stock())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("axis", ["rows", "columns", "both"])
@pytest.mark.parametrize("short", [0, 1], ids=["2n", "2n-1"])
def test_every_size_of_upsampling(short, axis, layout):
    """conv(upsample(x)) by parities, for all n up to 70, against interpolating and convolving."""
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    kernel = ours._parity_kernel(weight)
    for n in range(2, 71):
        small = (n if axis != "columns" else 3, n if axis != "rows" else 3)
        size = (2 * small[0] - short * (axis != "columns"), 2 * small[1] - short * (axis != "rows"))
        x = torch.randn(2, 2, *small, dtype=torch.float64).contiguous(memory_format=layout)
        expected = F.conv2d(F.interpolate(x, size=size, mode="nearest"), weight, padding=1)
        found = ours._conv_of_upsampled(x, kernel.contiguous(memory_format=layout), weight, size)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12, msg=f"{small} → {size}")


def test_nearest_to_one_less_takes_the_same_sources_and_stops_short():
    """What `_conv_of_upsampled` relies on, for every n that a photo can have."""
    for n in range(2, 1500):
        line = torch.arange(n, dtype=torch.float32)[None, None]
        to_odd = F.interpolate(line, size=2 * n - 1, mode="nearest")
        assert torch.equal(to_odd, F.interpolate(line, size=2 * n, mode="nearest")[..., :-1])


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bf16_is_as_near_as_stock_is(how, grad):
    exact = Case(SIZES["mixed"], torch.float32)
    expected = exact.stock()
    case = Case(SIZES["mixed"], torch.float32)
    if how == "weights":
        case.head.bfloat16(), case.attention.bfloat16()
        case.projected, case.memory, case.queries = (
            tensor.bfloat16() for tensor in (case.projected, case.memory, case.queries)
        )
        case.fpn = [feature.bfloat16() for feature in case.fpn]
    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found = dense_masks(case.head, case.attention, case.shared(), case.queries)
        stock = case.stock()
    assert found.dtype == stock.dtype == torch.bfloat16
    off, stock_off = ((masks.float() - expected).square().mean().sqrt() for masks in (found, stock))
    assert off < 1.5 * stock_off


@pytest.mark.parametrize("size", [(64, 96), (75, 107)])
@pytest.mark.parametrize("backbone", ["timm", "dilated", "hf"])
def test_inside_a_whole_model(backbone, size):
    torch.manual_seed(0)
    model = DetrForSegmentation(tiny_config(backbone=backbone)).double().eval()
    seen = {}
    model.bbox_attention.register_forward_hook(
        lambda _module, args, kwargs, _output: seen.update(queries=args[0], memory=args[1]), with_kwargs=True
    )
    model.mask_head.register_forward_hook(
        lambda _module, _args, kwargs, _output: seen.update(projected=kwargs["features"], fpn=kwargs["fpn_features"]),
        with_kwargs=True,
    )
    pixel_mask = torch.ones(2, *size, dtype=torch.int64)
    pixel_mask[0, :, size[1] * 2 // 3 :] = 0
    with torch.no_grad():
        expected = model(torch.randn(2, 3, *size, dtype=torch.float64), pixel_mask).pred_masks
        coarse = seen["memory"].shape[-2:]
        valid = F.interpolate(pixel_mask[None].float(), size=coarse)[0].bool()
        inputs = seen["projected"], seen["memory"], valid, seen["fpn"]
        shared = shared_mask_features(model.mask_head, model.bbox_attention, *inputs)
        found = dense_masks(model.mask_head, model.bbox_attention, shared, seen["queries"])
    assert_same(found, expected)


class Wrapped(nn.Conv2d):
    """As LoRA does it: the layer's own result, and something beside."""

    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize("how", ["a wrapper", "a hook"])
def test_a_layer_that_is_more_than_its_weight_is_refused(how):
    """Its weight alone would be used: masks were off by 2, and nobody was told."""
    case = Case(SIZES["even"])
    if how == "a wrapper":
        case.head.conv2.conv = Wrapped(D + HEADS, D, 3, padding=1)
    else:
        case.attention.k_proj.register_forward_pre_hook(lambda module, inputs: None)
    with pytest.raises(
        ModelError, match="is wrapped" if how == "a hook" else r"mask_head, conv2 is wrapped \(Wrapped"
    ):
        case.shared()


def test_a_parametrized_layer_is_its_weight():
    case = Case(SIZES["even"])
    nn.utils.parametrizations.weight_norm(case.head.conv2.conv)
    case.shared()


class Launches(TorchDispatchMode):
    """Operations that reach a device, views aside."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_a_larger_batch_is_larger_launches_and_not_more(monkeypatch):
    """Of the work once a query; what is copied for an image, and its gradient added up, is a launch each."""

    def launches(images):
        case = Case(SIZES["odd"], batch=images)
        owners = [image for image in range(images) for _ in range(2)]
        with Launches() as seen:
            case.masks_for(owners, [0, 1] * images).sum().backward()
        return seen.count

    one_by_one = launches(8) - launches(1)
    monkeypatch.setattr(ours, "few_launches", lambda device: True)
    together = launches(8) - launches(1)
    assert together < one_by_one / 4
