"""Expected values: transformers' own DetrImageProcessor (torchvision backend), literals by hand where stock cannot."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import DetrImageProcessor
from transformers.image_transforms import get_size_with_aspect_ratio

from hf_detr_panoptic.errors import ImageError, ModelError
from hf_detr_panoptic.preprocess import Preprocess, as_pixels, pad

pytestmark = pytest.mark.bits

# height, width: tiny, odd, both bounds, exactly at them, one off, cameras and phones, strips
PHOTO_SIZES = [
    (1, 1),
    (2, 3),
    (7, 5),
    (33, 31),
    (240, 320),
    (427, 640),
    (480, 640),
    (640, 480),
    (799, 1333),
    (800, 1333),
    (800, 1334),
    (1333, 800),
    (801, 801),
    (800, 800),
    (1079, 1921),
    (3000, 4000),
    (4032, 3024),
    (17, 900),
    (900, 17),
    (1, 700),
    (700, 1),
    (333, 1000),
]


def noise(height, width, seed=0):
    """uint8 [H, W, 3]: every rounding shows, which a smooth picture would hide."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stock(photos, **settings):
    return DetrImageProcessor(**settings)(photos, return_tensors="pt")


@pytest.mark.parametrize("size", PHOTO_SIZES, ids=lambda size: "x".join(map(str, size)))
def test_a_photo_is_what_stock_makes_of_it(size):
    photo = Image.fromarray(noise(*size))
    ours = Preprocess()(photo)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, stock(photo)["pixel_values"][0], rtol=0, atol=1e-6)


def test_a_batch_is_what_stock_makes_of_it():
    photos = [Image.fromarray(noise(*size)) for size in [(48, 64), (64, 48), (30, 90), (48, 64), (64, 64)]]
    theirs = stock(photos, size={"shortest_edge": 80, "longest_edge": 133})
    preprocess = Preprocess(80, 133)
    ours = pad([preprocess(photo) for photo in photos])
    torch.testing.assert_close(ours.pixel_values, theirs["pixel_values"], rtol=0, atol=1e-6)
    assert ours.pixel_mask.dtype == torch.int64
    assert torch.equal(ours.pixel_mask, theirs["pixel_mask"])
    assert ours.valid_sizes == [preprocess.output_size(photo.height, photo.width) for photo in photos]


@pytest.mark.parametrize(
    "config",
    [
        {"size": {"height": 50, "width": 70}},
        {"size": {"max_height": 50, "max_width": 70}},
        {"size": {"shortest_edge": 50, "longest_edge": 60}},
        {"size": 50, "max_size": 60},  # the spelling of facebook/detr-resnet-50's first upload
        {"size": {"shortest_edge": 50, "longest_edge": 60}, "resample": 3},
        {"size": {"shortest_edge": 50, "longest_edge": 60}, "resample": 0},
        {"do_resize": False},
        {"do_rescale": False},
        {"do_normalize": False},
        {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]},
        {"image_mean": 0.5, "image_std": 0.5},
        {"rescale_factor": 1 / 127.5},
    ],
    ids=str,
)
def test_a_config_is_read_and_written_back(config):
    photo = Image.fromarray(noise(37, 91))
    processor = DetrImageProcessor(**config)
    theirs = processor(photo, return_tensors="pt")["pixel_values"][0].float()
    ours = Preprocess.from_image_processor(processor)
    torch.testing.assert_close(ours(photo), theirs, rtol=0, atol=1e-6)
    assert Preprocess.from_image_processor(processor.to_dict()) == ours
    written = ours.to_image_processor()
    assert type(written) is DetrImageProcessor
    assert Preprocess.from_image_processor(written.to_dict()) == ours
    torch.testing.assert_close(written(photo, return_tensors="pt")["pixel_values"][0], theirs, rtol=0, atol=1e-6)


def test_defaults_are_stocks_defaults():
    assert Preprocess.from_image_processor(DetrImageProcessor()) == Preprocess()


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 9000),
    st.integers(1, 9000),
    st.sampled_from([(800, 1333), (480, 640), (64, 97), (512, 512), (333, 1333)]),
)
def test_output_size_is_stocks(height, width, edges):
    theirs = get_size_with_aspect_ratio((height, width), *edges)
    ours = Preprocess(*edges).output_size(height, width)
    assert ours == tuple(max(edge, 1) for edge in theirs)


def test_a_strip_on_which_stock_fails_keeps_one_pixel():
    # 1333 · 1 / 5000 = 0.27 rounds to no pixel at all
    assert Preprocess().output_size(1, 5000) == (1, 1333)
    assert Preprocess()(noise(5000, 1)).shape == (3, 1333, 1)
    assert Preprocess(fit_within=(50, 70)).output_size(1000, 3) == (50, 1)
    assert Preprocess(fit_within=(50, 70)).output_size(3, 1000) == (1, 70)
    with pytest.raises(ImageError, match="no pixels"):
        Preprocess().output_size(0, 10)


def test_normalise_by_hand():
    grey = torch.full((3, 1, 1), 51, dtype=torch.uint8)  # 51 / 255 = 0.2
    values = Preprocess(mean=(0.1, 0.2, 0.6), std=(0.1, 1.0, 0.5)).normalize(grey)
    torch.testing.assert_close(values.flatten(), torch.tensor([1.0, 0.0, -0.8]))
    assert grey.unique().tolist() == [51]


def test_normalise_takes_a_batch_and_resize_an_own_size():
    preprocess = Preprocess()
    pixels = as_pixels(noise(40, 60))
    assert preprocess(pixels, size=(20, 25)).shape == (3, 20, 25)
    assert preprocess.resize(pixels, (40, 60)) is pixels
    two = torch.stack([pixels, pixels.flip(-1)])
    both = preprocess.normalize(two)
    assert torch.equal(both[1], preprocess.normalize(two[1]))


@pytest.mark.filterwarnings("error")  # torch warns of read-only memory
def test_every_kind_of_photo_gives_the_same_pixels():
    array = noise(9, 12)
    expected = torch.tensor(array.tolist(), dtype=torch.uint8).permute(2, 0, 1)
    read_only = array.copy()
    read_only.flags.writeable = False
    for photo in (array, read_only, Image.fromarray(array), expected):
        assert torch.equal(as_pixels(photo), expected)
    assert torch.equal(as_pixels(array[:, ::-1]), expected.flip(-1))


@pytest.mark.parametrize(
    ("photo", "says"),
    [
        (torch.zeros(3, 4, 4), "float32"),
        (torch.full((3, 4, 4), float("nan")), "float32"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (torch.zeros(4, 4, 4, dtype=torch.uint8), r"\[4, 4, 4\]"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"\[4, 4, 3\]"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "not one photo"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), r"\[3, 0, 4\]"),
        (np.zeros((4, 4), dtype=np.uint8), r"\[4, 4\]"),
        (np.zeros((4, 4, 4), dtype=np.uint8), r"\[4, 4, 4\]"),
        (np.full((4, 4, 3), np.nan), "float64"),
        (Image.new("RGBA", (4, 4)), "RGBA"),
        ("photo.jpg", "str is not a photo"),
    ],
)
def test_what_is_no_photo_is_refused(photo, says):
    with pytest.raises(ImageError, match=says):
        Preprocess()(photo)


@pytest.mark.parametrize(
    "settings",
    [
        {"shortest_edge": 0},
        {"shortest_edge": 800, "longest_edge": None},
        {"exact_size": (10, -1)},
        {"std": (1.0, 0.0, 1.0)},
        {"std": (1.0, float("nan"), 1.0)},
        {"mean": (0.5,)},
        {"rescale": 0.0},
        {"resample": 1},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ModelError):
        Preprocess(**settings)


def test_a_size_that_means_nothing_is_refused():
    with pytest.raises(ModelError, match=r"longest_edge.*Use shortest_edge and longest_edge"):
        Preprocess.from_image_processor({"size": {"longest_edge": 1333}})


def test_pad_by_hand():
    ones, twos = torch.ones(3, 1, 2), torch.full((3, 2, 1), 2.0)
    values, mask, valid = pad([ones, twos])
    assert values[:, 0].tolist() == [[[1, 1], [0, 0]], [[2, 0], [2, 0]]]
    assert mask.tolist() == [[[1, 1], [0, 0]], [[1, 0], [1, 0]]]
    assert valid == [(1, 2), (2, 1)]


def test_a_lone_image_is_not_copied():
    image = torch.ones(3, 5, 7)
    assert pad([image]).pixel_values.data_ptr() == image.data_ptr()


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([], "at least one"),
        ([torch.zeros(3, 2, 2, dtype=torch.uint8)], "image 0.*uint8"),
        ([torch.zeros(3, 2, 2), torch.zeros(2, 2)], r"image 1.*\[2, 2\]"),
        ([torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)], r"image 1.*\[1, 2, 2\]"),
        ([torch.zeros(3, 2, 2), torch.zeros(3, 2, 2, dtype=torch.float64)], "image 1.*float64.*float32"),
    ],
)
def test_pad_refuses_what_is_no_batch(images, says):
    with pytest.raises(ImageError, match=says):
        pad(images)


def test_tensors_stay_on_their_device():
    # `meta` stands in for an accelerator, once as the device of the photo and once as the one that is not meant.
    pixels = torch.zeros(3, 40, 60, dtype=torch.uint8, device="meta")
    values = Preprocess(20, 40)(pixels)
    assert (values.device.type, values.shape) == ("meta", (3, 20, 30))
    batch = pad([values, values[:, :10]])
    assert batch.pixel_values.device.type == batch.pixel_mask.device.type == "meta"
    with torch.device("meta"):
        values = Preprocess(20, 40)(noise(40, 60))
        batch = pad([values, values[:, :10]])
    assert torch.equal(values, Preprocess(20, 40)(noise(40, 60)))
    assert batch.pixel_values.device.type == batch.pixel_mask.device.type == "cpu"


def test_real_photos_are_what_stock_makes_of_them(shared_data):
    paths = [p for p in sorted(shared_data.rglob("*")) if p.suffix.lower() in {".jpg", ".jpeg"}][:12]
    assert len(paths) == 12
    photos = [Image.open(path).convert("RGB") for path in paths]
    theirs = stock(photos)
    ours = pad([Preprocess()(photo) for photo in photos])
    torch.testing.assert_close(ours.pixel_values, theirs["pixel_values"], rtol=0, atol=1e-6)
    assert torch.equal(ours.pixel_mask, theirs["pixel_mask"])
