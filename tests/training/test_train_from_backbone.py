"""`train` from a backbone alone, by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from made import noise
from safetensors.torch import save_file
from transformers import DetrForSegmentation, DetrImageProcessor

from hf_detr_panoptic import DetrForPanopticSegmentation
from hf_detr_panoptic.cli import main


@pytest.mark.slow
def test_a_run_from_a_backbone(even_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, run = tmp_path / "weights.safetensors", tmp_path / "run"
    save_file(timm.create_model("test_efficientnet").state_dict(), weights)
    words = ["train", "quick", "--data", str(even_folder), "--output", str(run), "--size.shortest_edge", "64"]
    words += ["--size.longest_edge", "96", "--use_cpu", "--dataloader_num_workers", "0", "--max_steps", "2"]
    words += ["--model.backbone", "test_efficientnet", "--model.weights", str(weights), "--model.width", "32"]
    words += ["--model.layers", "1", "--model.queries", "9"]
    assert main([*words, "--estimate"]) == 0
    said = capsys.readouterr().out
    assert said.count("11.7 box AP") == 1
    assert not run.exists()
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"test_efficientnet: weights of {weights}, without its classifier" in said
    stock, ours = (
        cls.from_pretrained(run / "final").eval() for cls in (DetrForSegmentation, DetrForPanopticSegmentation)
    )
    assert stock.config.backbone_config.freeze_batch_norm_2d
    processor = DetrImageProcessor.from_pretrained(run / "final")
    assert tuple(processor.image_mean) == timm.get_pretrained_cfg("test_efficientnet").mean
    x = ours.preprocess(noise())[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(x).logits, stock(x).logits, rtol=0, atol=1e-5)
    # The stem and layer1 are as they came.
    first = stock.detr.model.backbone.model.get_submodule("blocks.0").state_dict()
    given = timm.models.load_state_dict(str(weights))
    assert all(torch.equal(tensor, given[f"blocks.0.{key}"]) for key, tensor in first.items())
