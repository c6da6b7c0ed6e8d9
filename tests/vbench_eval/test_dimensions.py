"""VBench's formulas, on stand-ins whose answers are known by hand."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from tests.support.vbench_backbones import (
    ErringInterpolator,
    Stub,
    TableEncoder,
    TableFlow,
    TableScorer,
    info,
    measure,
    numbered,
)
from vbench_eval.dimensions import BACKBONE_KINDS, OFFICIAL, VBENCH_EXTRAS, Measured, build
from vbench_eval.dimensions.formulas import largest_motion, motion_threshold, moving_pairs_needed
from vbench_eval.errors import UserError
from vbench_eval.profiles import PROFILES, get_profile
from vbench_eval.video_info import About, VideoError, sampling_interval

FLOAT32 = 4 * 2**-24  # two unit vectors with components rounded to 24 bits, and their dot product
CONSISTENCIES = ("subject_consistency", "background_consistency")


def at_angles(*degrees: float, length: float = 1.0) -> TableEncoder:
    return TableEncoder([[length * math.cos(math.radians(d)), length * math.sin(math.radians(d))] for d in degrees])


def consistency(encoder: TableEncoder, name: str = "subject_consistency") -> Measured:
    return measure(name, numbered(len(encoder.features)), encoder)


@pytest.mark.parametrize("name", CONSISTENCIES)
def test_consistency_is_1_for_equal_frames_and_0_for_orthogonal_or_opposite_ones(name):
    assert consistency(at_angles(20, 20, 20, 20), name).value == pytest.approx(1, abs=FLOAT32)
    assert consistency(TableEncoder(torch.eye(5)), name).value == 0
    assert consistency(at_angles(0, 180, 0, 180), name).value == pytest.approx(1 / 6, abs=FLOAT32)  # only f_0 . f_2
    assert consistency(at_angles(0, 180), name).value == 0


@pytest.mark.parametrize("name", CONSISTENCIES)
def test_consistency_of_known_angles_is_the_mean_of_both_clamped_cosines(name):
    measured = consistency(at_angles(0, 30, 90, 150), name)
    # to the one before: 30, 60, 60 degrees; to the first: 30, 90, 150 (a negative cosine, which counts as 0)
    pairs = [math.sqrt(3) / 2, (0.5 + 0) / 2, (0.5 + 0) / 2]
    assert measured.value == measured.score == pytest.approx(sum(pairs) / 3, abs=FLOAT32)
    assert measured.weight == measured.extras["cnt_per_video"] == 3
    assert measured.extras["video_sim"] == pytest.approx(sum(pairs), abs=3 * FLOAT32)
    assert measured.extras["lowest_pair"] == pytest.approx(0.25, abs=FLOAT32)
    assert measured.extras["lowest_pair_frame"] in (2, 3)
    assert VBENCH_EXTRAS["background_consistency"] == ("video_sim", "cnt_per_video"), "what VBench writes"


def test_each_cosine_is_clamped_before_the_two_are_averaged():
    measured = consistency(at_angles(0, 80, 160))
    near, far = math.cos(math.radians(80)), math.cos(math.radians(160))
    assert far < -near, "their mean would be negative"
    assert measured.extras["video_sim"] == pytest.approx(near + near / 2, abs=2 * FLOAT32)


def test_the_length_of_features_does_not_count():
    short, long = (consistency(at_angles(0, 25, 70, length=length)).value for length in (1e-3, 1e3))
    assert short == pytest.approx(long, abs=2 * FLOAT32)


def test_a_frame_without_features_is_like_no_other():
    assert consistency(TableEncoder([[1, 0], [0, 0], [1, 0]])).extras["video_sim"] == 0.5  # only f_0 . f_2


@pytest.mark.parametrize(
    "name, low, high, value", [("aesthetic_quality", 0, 10, 0.55), ("imaging_quality", 0, 100, 55)]
)
def test_quality_is_the_mean_over_frames_in_the_unit_vbench_writes(name, low, high, value):
    scores = [high * share for share in (0.25, 0.5, 0.9)]
    measured = measure(name, numbered(3), TableScorer(scores, low, high))
    assert measured.value == pytest.approx(value, rel=2**-22)  # 0.9 as float32
    assert measured.score == pytest.approx(0.55, rel=2**-22)
    assert measured.weight == 1
    assert measured.extras["lowest_frame"] == 0.25 * high


def test_any_scorers_own_scale_is_brought_to_0_to_1():
    measured = measure("imaging_quality", numbered(2), TableScorer([1.0, 2.0], -1, 4))
    assert (measured.score, measured.value, measured.extras["mean_of_scorer"]) == (0.5, 50, 1.5)


def test_quality_beyond_the_nominal_scale_is_not_clamped():
    assert measure("aesthetic_quality", numbered(2), TableScorer([12, 13], 0, 10)).value == 1.25
    assert measure("imaging_quality", numbered(1), TableScorer([-25], 0, 100)).score == -0.25


@pytest.mark.parametrize("error, counted", [(0, 0), (0.7, 0), (3, 3), (-2, 2), (2.7, 2)])
def test_smoothness_counts_whole_grey_levels_of_error_and_cuts_fractions_off(error, counted):
    measured = measure("motion_smoothness", numbered(9) + 50, ErringInterpolator(error))
    assert measured.value == (255 - counted) / 255
    assert measured.extras["mean_difference"] == counted


def test_an_interpolated_frame_is_clipped_to_what_a_pixel_can_be():
    frames = numbered(3) + 50  # the real middle is 51 everywhere
    assert measure("motion_smoothness", frames, ErringInterpolator(1000)).value == (255 - (255 - 51)) / 255
    assert measure("motion_smoothness", frames, ErringInterpolator(-1000)).value == (255 - 51) / 255


@pytest.mark.parametrize("count, pairs", [(3, 1), (4, 1), (5, 2), (6, 2), (16, 7), (17, 8)])
def test_smoothness_foretells_each_odd_frame_between_two_even_ones(count, pairs):
    interpolator = ErringInterpolator()
    measured = measure("motion_smoothness", numbered(count), interpolator, about=info(fps=60))
    assert interpolator.pairs == [(2 * k, 2 * k + 2) for k in range(pairs)]
    assert measured.extras["count"] == pairs
    assert measured.value == 1


def test_smoothness_averages_over_comparisons():
    frames = numbered(5)
    frames[1], frames[3] = 11, 6  # real middles 1 and 3: off by 10 and by 3
    measured = measure("motion_smoothness", frames, ErringInterpolator())
    assert measured.value == (255 - 6.5) / 255
    assert measured.extras["worst_difference"] == 10


class EdgeWrecker(Stub):
    """The true middle of a still video, but wrong wherever the caller's padding is; checks what the padding holds."""

    pad_multiple = 16

    def __init__(self, frame: torch.Tensor) -> None:
        self.frame = frame.float() / 255  # [H, W, 3], 10 x 13: 6 more rows and 3 more columns make 16 x 16

    def midpoint(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert a.shape == (1, 3, 16, 16)
        inside = a[0, :, 3:13, 1:14].permute(1, 2, 0)
        assert torch.equal(inside, self.frame), "half of the padding comes before, the odd pixel after"
        assert torch.equal(a[0, :, 0, 0], self.frame[0, 0]) and torch.equal(a[0, :, 15, 15], self.frame[9, 12])
        wrecked = torch.zeros_like(a)
        wrecked[0, :, 3:13, 1:14] = a[0, :, 3:13, 1:14] + 0.25 / 255
        return wrecked


def test_padding_repeats_the_border_and_takes_no_part_in_smoothness():
    frame = torch.randint(0, 255, (10, 13, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    measured = measure("motion_smoothness", frame.expand(3, -1, -1, -1), EdgeWrecker(frame))
    assert measured.value == 1


def test_flickering_is_the_mean_step_between_neighbours():
    assert measure("temporal_flickering", numbered(1).repeat(6, 1, 1, 1)).value == 1
    frames = torch.zeros(3, 16, 16, 3, dtype=torch.uint8)
    frames[1, ..., 0] = 90  # one channel of three up by 90: 30 on average; and then all up to 255
    frames[2] = 255
    steps = [30, (165 + 255 + 255) / 3]
    assert measure("temporal_flickering", frames).value == pytest.approx((255 - sum(steps) / 2) / 255, rel=2**-50)


def test_a_step_down_counts_like_a_step_up():
    frames = torch.tensor([200, 10, 200, 10], dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 4, 4, 3)
    assert measure("temporal_flickering", frames).value == (255 - 190) / 255


BACKBONES = {
    "subject_consistency": TableEncoder(torch.rand(23, 6, generator=torch.Generator().manual_seed(1)) - 0.5),
    "background_consistency": TableEncoder(torch.rand(23, 6, generator=torch.Generator().manual_seed(2)) - 0.5),
    "motion_smoothness": ErringInterpolator(2),
    "dynamic_degree": TableFlow({k: (0.3 * k, 0.0) for k in range(23)}),
    "aesthetic_quality": TableScorer([0.1 * k for k in range(23)], 0, 10),
    "imaging_quality": TableScorer([3.1 * k for k in range(23)], 0, 100),
    "temporal_flickering": None,
}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", OFFICIAL)
def test_results_do_not_depend_on_how_frames_are_cut_into_chunks(name, profile):
    frames = numbered(23)
    whole, *cut = (
        measure(name, frames, BACKBONES[name], profile=profile, about=info(fps=20), cuts=cuts)
        for cuts in ([], list(range(1, 23)), [1, 2, 5], [7, 14], [22], [4, 8, 12, 16, 20])
    )
    assert whole.value is not None
    assert cut == [whole] * 5


@pytest.mark.parametrize(
    ("name", "count", "told"),
    [
        *((name, 1, "two frames") for name in (*CONSISTENCIES, "temporal_flickering")),
        *(("motion_smoothness", count, "three frames") for count in (1, 2)),
    ],
)
def test_too_few_frames_have_no_value_and_the_reason_is_told(name, count, told):
    measured = measure(name, numbered(count), BACKBONES[name])
    assert (measured.value, measured.score) == (None, None) and told in str(measured.reason)
    assert measured.weight == 0 or name == "motion_smoothness"


# Captions are no numbers, and what needs a picture has tests of its own.
NUMBERS = [name for name, kind in BACKBONE_KINDS.items() if kind not in (None, "Captioner", "PictureEncoder")]
MEANT = replace(info(), about=About("a cat", {"appearance_style": {"appearance_style": "oil"}}))


class Nowhere(Stub):
    dim, low, high, pad_multiple = 2, 0.0, 1.0, 8

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.full((len(frames), 2), math.nan)

    def score(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.full((len(frames),), math.inf)

    def flow(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.full_like(a[:, :2], math.nan)

    def midpoint(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.full_like(a, math.nan)

    num_frames = 8

    def similarities(self, frames: torch.Tensor, text: str) -> torch.Tensor:
        return torch.full((len(frames),), math.nan)

    def shrink(self, frames: torch.Tensor) -> torch.Tensor:
        return frames

    def encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.full((2,), math.nan)

    def encode_text(self, text: str) -> torch.Tensor:
        return torch.ones(2)

    labels = ("riding a bike", "marching")

    def probabilities(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.full((2,), math.nan)


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_not_a_finite_number_is_told_and_never_given_as_a_value(name):
    measured = measure(name, numbered(4), Nowhere(), about=MEANT)
    assert (measured.value, measured.score) == (None, None)
    assert "finite" in str(measured.reason)


class Misshapen(Nowhere):
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.ones(1, 2)

    def score(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.ones(1)

    def flow(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.ones(1, 2, 1, 1)

    def midpoint(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a[0]

    def similarities(self, frames: torch.Tensor, text: str) -> torch.Tensor:
        return torch.ones(1)

    def encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.ones(1, 2)

    def probabilities(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.ones(1)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_backbone_that_breaks_its_promise_of_shape_is_refused(name):
    with pytest.raises(UserError, match="stub gave a result of shape"):
        measure(name, numbered(4), Misshapen(), about=MEANT)


def test_unknown_names_and_backbones_of_another_kind_are_refused_with_what_is_allowed():
    profile = get_profile("vbench")
    with pytest.raises(UserError, match="'speed'; choose one of subject_consistency"):
        build("speed", profile, None)
    with pytest.raises(UserError, match="dynamic_degree needs a FlowEstimator, got TableEncoder"):
        build("dynamic_degree", profile, at_angles(0))
    with pytest.raises(UserError, match="needs a FrameScorer, got NoneType"):
        build("imaging_quality", profile)
    with pytest.raises(UserError, match="profile is 'exact'; choose one of vbench, vbench-ngpus, fixed"):
        get_profile("exact")


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_measurement_survives_its_json(name):
    import json

    measured = measure(name, numbered(23), BACKBONES[name])
    assert Measured.from_json(json.loads(json.dumps(measured.as_json(), allow_nan=False))) == measured


THRESHOLD = 6 * 16 / 256  # of the stand-ins' 16 x 16 frames: exact in binary


@pytest.mark.parametrize(
    "fps, interval",
    [
        (0, 1),
        (8, 1),
        (10, 1),
        (12, 2),
        (16, 2),
        (20, 2),
        (24, 3),
        (25, 3),
        (30, 4),
        (60, 8),
        (23.976, 3),
        (29.97, 4),
        (4, 1),
    ],
)
def test_which_frames_are_kept_at_each_rate(fps, interval):
    assert sampling_interval(fps) == interval
    flow = TableFlow()
    measured = measure("dynamic_degree", numbered(25), flow, about=info(fps=fps))
    kept = list(range(0, 25, interval))
    assert flow.pairs == list(itertools.pairwise(kept))
    assert (measured.extras["interval"], measured.extras["n"]) == (interval, len(kept))


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


@pytest.mark.parametrize("dimension", ["dynamic_degree", "motion_smoothness"])
def test_frames_on_which_vbenchs_network_divides_by_zero_have_no_value_under_its_profile(dimension):
    backbone = TableFlow() if dimension == "dynamic_degree" else ErringInterpolator()
    backbone.vbench_side = 24
    with pytest.raises(VideoError, match=r"16x16 with padding; below 24 .* use the profile fixed"):
        measure(dimension, numbered(5), backbone)
    assert measure(dimension, numbered(5), backbone, profile="fixed").value is not None
    assert measure(dimension, numbered(5, 32, 32), backbone).value is not None
