"""How much of a video's move differs between its frames: exact on Gaussian videos, whose mean and motion are apart."""

from typing import Any

import pytest
import torch
from experiments.faster.motion import gaussian_video, parts
from experiments.theory.mixtures import PATHS, schedule
from torch import Tensor

from tests.support.sampled import by_selection, by_w2sd
from w2sd_video.core import MODES, Selector, sample

FRAMES = 4


RUNS: dict[str, dict[str, Any]] = {
    **{mode: {"mode": mode} for mode in MODES},
    "fixed points": {"fixed_point": 2},
    "lag": {"lag": True, "mode": "fused"},
    "cached gap": {"mode": "fused", "gap_every": 2},
}


@pytest.mark.parametrize("run", [*RUNS, "auto"])
@pytest.mark.parametrize("name", ["sdxl", "flow"])
def test_of_gaussian_videos_the_mean_is_reflected_as_ever_and_motion_alone_is_scaled(name: str, run: str) -> None:
    path, levels = PATHS[name], schedule(name, 8)
    strong, weak = gaussian_video(path, 0.4, 1.0, 0.5), gaussian_video(path, -0.3, 0.6, 0.9)
    x = torch.randn(2, 3, FRAMES, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def reflected(motion_strength: float) -> tuple[Tensor, Tensor]:
        call = x, levels, strong, weak, path
        if run == "auto":  # in which the first model stays the strong one
            always = Selector(lambda clean: torch.zeros(len(clean)))
            return parts(by_selection(*call, always, num_reflections=5, motion_strength=motion_strength))
        return parts(by_w2sd(*call, num_reflections=5, motion_strength=motion_strength, **RUNS[run]))

    own, printed = parts(sample(x, levels, strong, path)), reflected(1.0)
    for strength in (0.0, 0.5, 2.0, -1.0):
        mean, motion = reflected(strength)
        torch.testing.assert_close(mean, printed[0], rtol=0, atol=1e-12)
        if strength == 0 and run != "lag":  # whose cached prediction is of another latent
            torch.testing.assert_close(motion, own[1], rtol=0, atol=1e-12)
        if run in ("fused", "cached gap"):  # of which the weak side's larger motion says the sign
            gain = (motion.std() / own[1].std()).item() - 1
            assert gain == 0 or (gain < 0) == (strength > 0) or abs(gain) < 1e-12
    assert (printed[1] - own[1]).abs().max() > 1e-2 and (printed[0] - own[0]).abs().max() > 1e-2


def test_the_cap_bounds_the_move_that_is_made_and_pictures_have_no_motion() -> None:
    path, levels = PATHS["flow"], schedule("flow", 8)
    strong, weak = gaussian_video(path, 0.4, 1.0, 0.5), gaussian_video(path, -0.3, 0.6, 0.9)
    x = torch.randn(2, 3, FRAMES, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moves: list[Tensor] = []
    settings: dict[str, Any] = {"mode": "fused", "num_reflections": 5, "motion_strength": 3.0, "cap": 0.01}
    by_w2sd(x, levels, strong, weak, path, on_reflect=lambda i, x, tilde: moves.append(tilde - x), **settings)
    sizes = torch.stack([move.flatten(1).square().mean(1).sqrt() for move in moves])
    assert sizes.max() <= 0.01 + 1e-12
    for picture in (x[:, :, 0], x[:, :, :1]):
        with pytest.raises(ValueError, match=r"motion_strength is for videos, latents \[B, C, F, H, W\] of 2 frames"):
            by_w2sd(picture, levels, lambda x, _: x, lambda x, _: 0 * x, path, mode="fused", motion_strength=0.0)
