"""The ranking of blocks: every block of the network once, by the cosine of its gap with that of guidance."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from tests.support import tiny
from w2sd_video import ModelSpec, reflected
from w2sd_video.diagnosis.blocks import BlockGaps, blocks_text
from w2sd_video.diagnosis.treating import SampledPair
from w2sd_video.runs.progress import Progress

STEPS, GUIDANCE = 3, 3.0
CALL = {**tiny.IMAGE_CALL, "prompt": "a red cat", "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}


def first_move(pipe: object, weak: ModelSpec) -> Tensor:
    found: list[Tensor] = []
    watch = lambda i, x, tilde: found.append(tilde - x)  # noqa: E731
    with reflected(pipe, weak, mode="fused", num_reflections=1, on_reflect=watch):
        pipe(**CALL, generator=tiny.generator(5), output_type="latent")  # type: ignore[operator]
    return found[0].flatten()


def test_blocks_are_ranked_by_the_cosine_of_their_gap_with_that_of_guidance() -> None:
    pipe = tiny.sdxl()
    seed = tiny.generator(5).initial_seed()
    pair = SampledPair(pipe, CALL, seed, None, None, ModelSpec(guidance=GUIDANCE), Progress(), nullcontext)
    gaps = BlockGaps()
    gaps.add(pair, 1)
    record = gaps.record()
    assert [entry["cosine"] for entry in record] == sorted((entry["cosine"] for entry in record), reverse=True)
    guided = first_move(pipe, ModelSpec(guidance=0.0))
    assert {entry["block"] for entry in record} and len(record) == len({entry["block"] for entry in record})
    for entry in record:
        alone = first_move(pipe, ModelSpec(skip_layers=(entry["block"],)))
        assert entry["cosine"] == pytest.approx(float(torch.cosine_similarity(alone, guided, dim=0)), abs=1e-4)
        assert entry["size"] == pytest.approx(float(alone.norm() / guided.norm()), rel=1e-3)
    assert record[0]["block"] in blocks_text(record)
