"""Videos of known motion, written to real files, score as they must: from pixels to the dimension's value."""

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.vbench_backbones import Blend, Stub
from tests.support.vbench_files import (
    LOSSLESS,
    Frames,
    levels,
    moving_square,
    write_animation,
    write_pictures,
    write_video,
)
from vbench_eval.dimensions import Measured, build
from vbench_eval.profiles import get_profile
from vbench_eval.videos import FramesInMemory, Video, open_video


class CentreOfLight(Stub):
    """The flow of a picture in which one thing moves: everywhere what its centre of brightness did."""

    pad_multiple = 8

    def flow(self, a: Tensor, b: Tensor) -> Tensor:
        moved = [after - before for before, after in zip(self._centre(a), self._centre(b), strict=True)]
        return torch.tensor(moved, dtype=torch.float32).reshape(1, 2, 1, 1).expand(1, 2, *a.shape[-2:])

    @staticmethod
    def _centre(picture: Tensor) -> tuple[float, float]:
        light = picture[0].double().sum(0)
        total = float(light.sum()) or 1.0
        rows = torch.arange(light.shape[0], dtype=torch.float64)
        columns = torch.arange(light.shape[1], dtype=torch.float64)
        return float((light.sum(0) * columns).sum()) / total, float((light.sum(1) * rows).sum()) / total


def score(video: Video, name: str, backbone: object = None, profile: str = "vbench") -> Measured:
    accumulator = build(name, get_profile(profile), backbone).start(video.info)
    for frames in video.chunks(max_bytes=6 * video.info.height * video.info.width * 3):
        accumulator.add(frames)
    return accumulator.finish()


def written(folder: Path, frames: Frames, kind: str, fps: int = 8) -> Video:
    path = Path(mkdtemp(dir=folder)) / f"video.{kind}"
    if kind == "gif":
        return open_video(write_animation(path, frames, [1000 // fps] * len(frames)))
    if kind == "pictures":
        return open_video(write_pictures(path, frames))
    if kind == "memory":
        return FramesInMemory(frames, fps=fps)
    how = {"mkv": {"codec": "ffv1", "pixels": "bgr0"}}.get(kind, LOSSLESS)
    return open_video(write_video(path, frames, fps=fps, **how))


KINDS = ("mp4", "mov", "mkv", "pictures", "memory")  # a gif, too, but it stores equal neighbours as one frame
# A 64 x 96 frame asks for more than 6 * 64 / 256 = 1.5 pixels in 4 of 15 pairs.


@pytest.mark.parametrize(
    "kind, dx, dy, dynamic",
    [
        *((kind, *case) for kind in (*KINDS, "gif") for case in ((4, 0, True), (0, 2, True), (1, 1, False))),
        *((kind, 0, 0, False) for kind in KINDS),
    ],
)
def test_a_square_is_dynamic_by_how_far_it_goes(tmp_path, kind, dx, dy, dynamic):
    measured = score(written(tmp_path, moving_square(16, dx, dy), kind), "dynamic_degree", CentreOfLight())
    assert measured.extras["max_flow"] == pytest.approx([float(np.hypot(dx, dy))] * 15, rel=2**-23)
    assert measured.value is dynamic


@pytest.mark.parametrize("moving, dynamic", [(3, False), (4, True)])
def test_a_quarter_of_a_short_clip_must_move(tmp_path, moving, dynamic):
    # A square that moves for some frames and then stands still; 16 frames need 4 moving pairs.
    frames = moving_square(moving + 1, 4)
    frames = np.concatenate([frames, frames[-1:].repeat(15 - moving, axis=0)])
    measured = score(written(tmp_path, frames, "mp4"), "dynamic_degree", CentreOfLight())
    assert (measured.extras["count"], measured.extras["count_num"]) == (moving, 4)
    assert measured.value is dynamic


@pytest.mark.parametrize("fps, per_pair, fixed", [(8, 1, 1), (16, 2, 2), (24, 3, 3), (12, 2, 1.5), (10, 1, 1.25)])
def test_the_rate_of_the_file_decides_how_far_a_step_goes(tmp_path, fps, per_pair, fixed):
    video = written(tmp_path, moving_square(33, 1), "mp4", fps)
    assert set(score(video, "dynamic_degree", CentreOfLight()).extras["max_flow"]) == {per_pair}
    assert set(score(video, "dynamic_degree", CentreOfLight(), "fixed").extras["max_flow"]) == {fixed}


def test_a_lossy_file_moves_as_the_lossless_one_does(tmp_path):
    video = open_video(write_video(tmp_path / "a.mp4", moving_square(16, 4), options={"crf": "10"}))
    measured = score(video, "dynamic_degree", CentreOfLight())
    # H.264 at crf 10 leaves every pixel within a few levels of 255; a rim of a tenth of the square's light, all on one
    # side, would move its centre by less than a pixel.
    assert measured.extras["max_flow"] == pytest.approx([4] * 15, abs=1)
    assert measured.value is True


@pytest.mark.parametrize("kind", (*KINDS, "gif"))
def test_the_smoothness_of_a_square_under_blending_is_what_its_edges_miss(tmp_path, kind):
    measured = score(written(tmp_path, moving_square(16, 4), kind), "motion_smoothness", Blend())
    # Between squares at x and x + 8 the real one is at x + 4. In a row: columns x..x+3 are 127 (half of 255, cut) but
    # should be 0, x+4..x+7 are 127 and should be 255, the overlap is right, and the same mirrored.
    row = 4 * (127 + 128 + 128 + 127)
    assert measured.extras["count"] == 7
    assert measured.value == pytest.approx((255 - 16 * row / (64 * 96)) / 255, rel=2**-50)
    if kind != "gif":
        assert score(written(tmp_path, moving_square(6, 0), kind), "motion_smoothness", Blend()).value == 1


@pytest.mark.parametrize("kind", (*KINDS, "gif"))
def test_flickering_of_known_steps(tmp_path, kind):
    still = score(written(tmp_path, levels(16, step=0), kind), "temporal_flickering")
    one_frame = "temporal flickering needs two frames, the video has one"  # equal ones are stored once
    assert (still.value, still.reason) == ((None, one_frame) if kind == "gif" else (1, None))
    assert score(written(tmp_path, levels(16, step=9), kind), "temporal_flickering").value == (255 - 9) / 255
    flicker = np.where(np.arange(10)[:, None, None, None] % 2, 40, 90).astype(np.uint8).repeat(64, 1).repeat(64, 2)
    assert score(written(tmp_path, flicker.repeat(3, 3), kind), "temporal_flickering").value == (255 - 50) / 255


def test_flickering_of_the_square_is_the_light_that_comes_and_goes(tmp_path):
    # With every step 4 columns of 16 pixels go dark and 4 light up, of 64 x 96.
    value = score(written(tmp_path, moving_square(16, 4), "mp4"), "temporal_flickering").value
    assert value == pytest.approx((255 - 2 * 4 * 16 * 255 / (64 * 96)) / 255, rel=2**-50)


@pytest.mark.parametrize("name, backbone", [("dynamic_degree", CentreOfLight()), ("motion_smoothness", Blend())])
def test_odd_sizes_are_padded_for_the_network_and_scored_as_they_are(tmp_path, name, backbone):
    frames = moving_square(16, 3, 1, 63, 91)
    path = write_video(tmp_path / "odd.mkv", frames, codec="ffv1", pixels="bgr0")
    measured = score(open_video(path), name, backbone)
    assert measured == score(FramesInMemory(frames), name, backbone)
    assert measured.value is not None
