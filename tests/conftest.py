"""What several tests need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a network
# Nor on what was fetched here before: with the page's runtime at hand each run would end with an export.
os.environ["HF_DETR_PANOPTIC_CACHE"] = os.devnull

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch, as a launcher sets it for each process: the last bits depend on their number."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real files that may not be redistributed: a folder beside the checkout, where there is one."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real files are not part of the repository, and {folder} is absent")
    return folder


@pytest.fixture(scope="session")
def tiny_labeler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DETR on disk that finds something on any photo."""
    from made import save_tiny_labeler

    return save_tiny_labeler(tmp_path_factory.mktemp("labeler"))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Six photos, and their marks in COCO's format."""
    from made import save_site

    return save_site(tmp_path / "site")


@pytest.fixture
def grown_sites(tmp_path: Path) -> tuple[Path, Path]:
    """A site of 20 photos, and the same when there were 10 of them."""
    from made import save_site

    whole, half = save_site(tmp_path / "whole", 20), tmp_path / "half"
    (half / "photos").mkdir(parents=True)
    for path in sorted((whole / "photos").iterdir())[::2]:
        (half / "photos" / path.name).write_bytes(path.read_bytes())
    return half, whole
