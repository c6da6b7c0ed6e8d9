"""W2SD on loaded pairs: every kind of weak side, dtype and offloading, with the text encoders freed first."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support import tiny
from tests.support.disk_pairs import LoadedPair, loaded_pair, told
from w2sd_video import ModelSpec, reflected
from w2sd_video.loading import placement

pytestmark = pytest.mark.slow  # whole runs of loaded pairs; test_loading.py and conformance hold the parts


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("pairs")
    tiny.sdxl(1).save_pretrained(root / "strong")
    tiny.sdxl(2).save_pretrained(root / "weak")
    other = tiny.sdxl(2)
    other.register_modules(text_encoder=tiny.clip_text_encoder(40))
    other.save_pretrained(root / "weak-other-text")
    tiny.motion_adapter().save_pretrained(root / "motion")
    return {path.name: str(path) for path in root.iterdir()}


def load(disk: dict[str, str], weak: str, **settings: Any) -> LoadedPair:
    return loaded_pair(disk["strong"], disk[weak], disk["motion"], **settings)


def generate(pair: LoadedPair, texts: Any = None) -> torch.Tensor:
    """Frames [1, 2, 3, 16, 16] in [0, 1]: guidances 3 / 1 / 3, 4 steps, 3 reflections."""
    inputs = texts if texts is not None else told(pair, "a ring")
    call = {"num_inference_steps": 4, "guidance_scale": 3.0, "generator": tiny.generator(), "output_type": "pt"}
    weak = (pair.weak, ModelSpec(guidance=1.0))
    with reflected(pair.pipe, weak, num_reflections=3, weak_inputs=inputs["weak"], progress=False) as run:
        frames = pair.pipe(**inputs["strong"], **call, **tiny.ANIMATEDIFF_CALL).frames
    assert (run.num_evaluations, run.num_rows) == (4 + 2 * 3, 4 * 2 + 3 * (2 + 1))
    assert frames.isfinite().all()
    return frames


@pytest.mark.parametrize("weak", ["weak", "weak-other-text"])
def test_half_precision_and_full_precision_make_nearly_the_same_video(disk: dict[str, str], weak: str) -> None:
    frames = generate(load(disk, weak))
    # Ten network passes, each rounding to 8 (bfloat16) or 11 (float16) bits: the relative error of one pass is about
    # eps times the root of its depth (some twenty layers), and guidance 3 multiplies differences by up to 5.
    for dtype, eps in (("bfloat16", 2**-8), ("float16", 2**-11)):
        error = (generate(load(disk, weak, dtype=dtype)) - frames).abs().max()
        assert error < 10 * 20**0.5 * 5 * eps


@pytest.mark.parametrize("kind", ["model", "group"])
def test_offloaded_networks_may_take_turns_in_the_pipeline(disk: dict[str, str], kind: str) -> None:
    pairs = [load(disk, "weak") for _ in range(2)]
    placement.place(pairs[1].pipe, pairs[1].weak, torch.device("cpu"), kind)
    videos = []
    for pair in pairs:
        strong, weak, texts = pair.pipe.unet, pair.weak_unet, told(pair, "a ring")
        for sampled, other in ((strong, weak), (weak, strong), (strong, weak)):
            pair.pipe.unet = sampled
            videos.append(generate(LoadedPair(pair.pipe, other), texts))
    assert all(torch.equal(videos[i], videos[i + 3]) for i in range(3))
    assert torch.equal(videos[0], videos[2])
    assert not torch.equal(videos[0], videos[1])
