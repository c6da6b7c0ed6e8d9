"""dynamic_degree on flows known by hand: which frames, which pixels, which thresholds, how many pairs."""

import itertools
import math

import pytest
import torch

from tests.support.vbench_stubs import ErringInterpolator, Stub, TableFlow, info, measure, numbered
from vbench_eval.dimensions.dynamics import largest_motion, motion_threshold, moving_pairs_needed
from vbench_eval.video_info import VideoError, sampling_interval

THRESHOLD = 6 * 16 / 256  # of the stand-ins' 16 x 16 frames: exact in binary


@pytest.mark.parametrize(
    "fps, interval",
    [(8, 1), (10, 1), (12, 2), (16, 2), (20, 2), (24, 3), (25, 3), (30, 4), (60, 8), (23.976, 3), (29.97, 4), (4, 1)],
)
def test_which_frames_are_kept_at_each_rate(fps, interval):
    assert sampling_interval(fps) == interval
    flow = TableFlow()
    measured = measure("dynamic_degree", numbered(25), flow, about=info(fps=fps))
    kept = list(range(0, 25, interval))
    assert flow.pairs == list(itertools.pairwise(kept))
    assert (measured.extras["interval"], measured.extras["n"]) == (interval, len(kept))


def test_a_rate_that_is_not_known_keeps_every_frame():
    assert sampling_interval(0) == 1


def test_pictures_of_a_folder_are_all_kept_unless_the_profile_normalises_the_rate():
    flow = TableFlow()
    measure("dynamic_degree", numbered(7), flow, about=info(fps=24, directory=True))
    assert flow.pairs == [(k, k + 1) for k in range(6)]
    flow = TableFlow()
    measure("dynamic_degree", numbered(7), flow, about=info(fps=24, directory=True), profile="fixed")
    assert flow.pairs == [(0, 3), (3, 6)]


NEEDED = {1: 0, 2: 0, 3: 1, 4: 1, 5: 1, 6: 2, 7: 2, 8: 2, 9: 2, 10: 2, 11: 3, 12: 3, 13: 3}
NEEDED |= {14: 4, 15: 4, 16: 4, 17: 4, 18: 4, 19: 5, 20: 5}


@pytest.mark.parametrize("frames, needed", NEEDED.items())
def test_how_many_pairs_must_move_with_halves_rounded_to_even(frames, needed):
    assert moving_pairs_needed(frames) == needed
    for moving in range(frames):
        # The last pairs move: nothing but their number may count.
        flow = TableFlow({frames - 2 - k: (9.0, 0.0) for k in range(moving)})
        measured = measure("dynamic_degree", numbered(frames), flow)
        assert measured.extras["count"] == moving
        assert measured.value is (moving >= needed and frames > 1)
        assert measured.score == float(measured.value)


@pytest.mark.parametrize("height, width, threshold", [(1024, 1024, 24), (512, 768, 12), (576, 320, 7.5), (256, 256, 6)])
def test_the_threshold_grows_with_the_shorter_side(height, width, threshold):
    assert motion_threshold(height, width) == threshold


def test_a_motion_equal_to_the_threshold_does_not_count():
    above = math.nextafter(THRESHOLD, 1) + 2**-24  # the next float32
    for motion, dynamic in ((THRESHOLD, False), (above, True)):
        flow = TableFlow(dict.fromkeys(range(16), (0.0, -motion)))
        measured = measure("dynamic_degree", numbered(16), flow)
        assert measured.extras["thres"] == THRESHOLD
        assert measured.value is dynamic


def test_motion_is_the_length_of_the_vector_and_every_pair_is_written_down():
    measured = measure("dynamic_degree", numbered(3), TableFlow({0: (3.0, -4.0), 1: (0.0, 0.0)}))
    assert measured.extras["max_flow"] == [5, 0]
    assert measured.extras["moving_share"] == 0.5
    assert measured.extras["median_over_threshold"] == 2.5 / THRESHOLD


def test_the_largest_twentieth_of_the_pixels_speaks_for_the_frame():
    order = torch.randperm(1600, generator=torch.Generator().manual_seed(0)).float().reshape(40, 40)
    flow = torch.stack([order, torch.zeros(40, 40)])
    assert largest_motion(flow) == sum(range(1520, 1600)) / 80
    order = torch.randperm(576, generator=torch.Generator().manual_seed(0)).float().reshape(24, 24)
    assert largest_motion(torch.stack([torch.zeros(24, 24), -order])) == sum(range(548, 576)) / 28  # 28.8, cut to 28


@pytest.mark.parametrize("frames, vbench, fixed", [(1, False, None), (2, True, False)])
def test_two_still_frames_are_dynamic_to_vbench_and_to_no_one_else(frames, vbench, fixed):
    assert measure("dynamic_degree", numbered(frames), TableFlow()).value is vbench
    measured = measure("dynamic_degree", numbered(frames), TableFlow(), profile="fixed")
    assert measured.value is fixed
    assert (measured.reason is None) == (fixed is not None)


class MovingPadding(Stub):
    """Nothing moves but what the caller added: 20 x 22 is padded to 24 x 24, two rows on each side, one column each."""

    pad_multiple = 8

    def flow(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert a.shape == (1, 3, 24, 24) and a.max() > 1, "frames arrive padded, in 0..255"
        flow = torch.full((1, 2, 24, 24), 7.0)
        flow[..., 2:22, 1:23] = 0
        return flow


def test_vbench_scores_the_padding_and_the_fixed_profile_does_not():
    frames = numbered(16, 20, 22) + 50
    vbench, fixed = (measure("dynamic_degree", frames, MovingPadding(), profile=name) for name in ("vbench", "fixed"))
    # 576 - 440 = 136 pixels of padding; of all 576 the largest 28 count, and they all move.
    assert vbench.extras["max_flow"] == pytest.approx([7 * math.sqrt(2)] * 15, rel=2**-23)
    assert vbench.value is True
    assert fixed.extras["max_flow"] == [0] * 15
    assert fixed.value is False


@pytest.mark.parametrize(
    "fps, interval, factor", [(8, 1, 1), (10, 1, 1.25), (12, 2, 0.75), (24, 3, 1), (30, 4, 0.9375)]
)
def test_the_fixed_profile_measures_motion_per_eighth_of_a_second(fps, interval, factor):
    # Frames kept at fps/interval per second show 8/(fps/interval) times the motion of an eighth of a second.
    flow = TableFlow(dict.fromkeys(range(33), (2.0, 0.0)))
    measured = measure("dynamic_degree", numbered(33), flow, about=info(fps=fps), profile="fixed")
    assert measured.extras["interval"] == interval
    assert set(measured.extras["max_flow"]) == {2 * factor}
    assert set(measure("dynamic_degree", numbered(33), flow, about=info(fps=fps)).extras["max_flow"]) == {2}


def test_the_fixed_profile_believes_the_times_of_frames_and_vbench_the_container():
    about = info(fps=24, average_fps=8)
    flow = TableFlow(dict.fromkeys(range(9), (1.0, 0.0)))
    assert measure("dynamic_degree", numbered(9), flow, about=about).extras["n"] == 3
    assert measure("dynamic_degree", numbered(9), flow, about=about, profile="fixed").extras["max_flow"] == [1] * 8


def test_motion_per_time_is_the_same_at_another_rate():
    # What moves 2 px in an eighth of a second moves 1.6 px in a tenth.
    at8 = TableFlow(dict.fromkeys(range(17), (2.0, 0.0)))
    at10 = TableFlow(dict.fromkeys(range(17), (1.6, 0.0)))
    one, other = (
        measure("dynamic_degree", numbered(17), flow, about=info(fps=fps), profile="fixed").extras["max_flow"]
        for flow, fps in ((at8, 8), (at10, 10))
    )
    assert one == pytest.approx(other, rel=2**-23)  # 1.6 as float32


@pytest.mark.parametrize("dimension", ["dynamic_degree", "motion_smoothness"])
def test_frames_on_which_vbenchs_network_divides_by_zero_have_no_value_under_its_profile(dimension):
    backbone = TableFlow() if dimension == "dynamic_degree" else ErringInterpolator()
    backbone.vbench_side = 24
    with pytest.raises(VideoError, match=r"16x16 with padding; below 24 .* use the profile fixed"):
        measure(dimension, numbered(5), backbone)
    assert measure(dimension, numbered(5), backbone, profile="fixed").value is not None
    assert measure(dimension, numbered(5, 32, 32), backbone).value is not None
