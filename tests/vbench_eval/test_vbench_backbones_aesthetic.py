"""The aesthetic head: the value of the direction of CLIP's features, on the head's own scale."""

import math

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.support.vbench_stubs import noise as frames
from vbench_eval.backbones.aesthetic import AestheticScorer, load_aesthetic
from vbench_eval.backbones.registry import resolve
from vbench_eval.errors import UserError

SIDE = 64
TOWER = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "image_size": SIDE,
    "patch_size": 32,
}


def normalised(some: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    return ((some.float() / 255 - mean) / std).permute(0, 3, 1, 2)


class Fixed:
    """An encoder with a known answer."""

    name = "fixed"

    def __init__(self, features: list[list[float]]) -> None:
        self._features = torch.tensor(features)
        self.dim = self._features.shape[1]

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return self._features[: len(frames)]

    def provenance(self) -> dict:
        return {"licence": "MIT", "commercial_ok": True, "dtype": "float32", "device": "cpu"}


def head_file(path, weight: torch.Tensor, bias: float):
    torch.save({"weight": weight, "bias": torch.tensor([bias])}, path)
    return path


def test_aesthetic_rating_is_the_heads_value_of_the_direction_of_the_features(tmp_path):
    head = head_file(tmp_path / "head.pth", torch.tensor([[2.0, -1.0]]), 5.0)
    scorer = load_aesthetic(Fixed([[3.0, 4.0], [30.0, 40.0], [0.0, -2.0]]), head)
    found = scorer.score(frames(3, 8, 8))
    expected = [2 * 0.6 - 0.8 + 5, 2 * 0.6 - 0.8 + 5, 1 + 5]  # not divided by ten: the dimension does
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=0)
    assert (scorer.low, scorer.high) == (0, 10)


def test_the_published_head_takes_768_features_and_a_head_for_others_is_refused(tmp_path):
    head = head_file(tmp_path / "sa_0_4_vit_l_14_linear.pth", torch.zeros(1, 768), 0.0)
    with pytest.raises(UserError, match="gives 2 features and the aesthetic head takes 768"):
        load_aesthetic(Fixed([[1.0, 2.0]]), head)


def test_the_mlp_head_of_other_tables_is_refused_by_its_keys(tmp_path):
    path = tmp_path / "mlp.pth"
    torch.save({"layers.0.weight": torch.zeros(4, 2), "layers.0.bias": torch.zeros(4)}, path)
    with pytest.raises(UserError, match=r"missing: weight, bias; not known: layers\.0\.weight"):
        load_aesthetic(Fixed([[1.0, 2.0]]), path)


def test_resolve_joins_tower_and_head_from_where_the_user_says(tmp_path):
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER, projection_dim=768)).eval()
    tower.save_pretrained(tmp_path / "tower")
    weight = torch.randn(1, 768, generator=torch.Generator().manual_seed(0))
    head = head_file(tmp_path / "head.pth", weight, 5.5)
    scorer = resolve("aesthetic_quality", f"path:{tmp_path / 'tower'},head={head}", profile="vbench")
    assert isinstance(scorer, AestheticScorer)
    some = frames(2, SIDE, SIDE)
    with torch.no_grad():
        found = tower(pixel_values=normalised(some)).image_embeds
    expected = [float(weight[0] @ f) / math.sqrt(float(f @ f)) + 5.5 for f in found]
    torch.testing.assert_close(scorer.score(some), torch.tensor(expected), rtol=1e-5, atol=0)
    origin = scorer.provenance()
    assert origin["encoder"]["id"] == "clip_vit_l_14" and origin["file"] == str(head)
    assert origin["sha256"] != origin["encoder"]["sha256"]
