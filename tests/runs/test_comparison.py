"""The comparison shows each method's pixels under its name, at a size that can be watched."""

import numpy as np
import pytest

from w2sd_video.runs.comparison import MAX_WIDTH, MIN_PANEL, Panel, of_one_size, panel_note, panel_scale, side_by_side
from w2sd_video.runs.video_io import check_format


def clip(value: int, frames: int = 4, height: int = 16, width: int = 24) -> np.ndarray:
    return np.full((frames, height, width, 3), value, np.uint8)


def test_a_small_video_is_enlarged_by_whole_squares() -> None:
    video = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    out = side_by_side([Panel("weak", "20 evaluations", video), Panel("strong", "20 evaluations", video)])
    factor = MIN_PANEL // 8
    top = out.shape[1] - 8 - 8 * factor - (out.shape[1] - 8 - 8 * factor) % 2
    for left in (8, 16 + 8 * factor):
        panel = out[:, top : top + 8 * factor, left : left + 8 * factor]
        assert np.array_equal(panel[:, ::factor, ::factor], video)
        assert np.array_equal(panel, video.repeat(factor, 1).repeat(factor, 2))


def test_each_panel_has_a_label_of_its_own() -> None:
    labels = []
    for title in ("weak", "strong"):
        out = side_by_side([Panel(title, "20 evaluations", clip(0)), Panel("W2SD", "40 evaluations", clip(0))])
        labels.append(out[0])
    half = labels[0].shape[1] // 2
    assert not np.array_equal(labels[0][:, :half], labels[1][:, :half]), "the first label differs"
    assert np.array_equal(labels[0][:, half:], labels[1][:, half:]), "the second does not"


def test_a_shorter_video_holds_its_last_frame_and_a_missing_one_leaves_a_place() -> None:
    short = np.concatenate([clip(0, 1), clip(255, 1)])
    out = side_by_side([Panel("a", "", clip(9, 5)), Panel("b", "", short), Panel("c", "failed")])
    assert len(out) == 5
    column = out.shape[2] // 2
    assert (out[1:, out.shape[1] // 2, column] == 255).all()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(16, 24), (31, 33), (256, 256), (1024, 1024), (720, 1280)])
def test_any_comparison_can_be_written_as_an_mp4_that_players_take(count: int, height: int, width: int) -> None:
    out = side_by_side([Panel("W2SD", "148 evaluations", clip(7, 1, height, width))] * count)
    check_format("mp4", out.shape[1], out.shape[2], 8)
    assert out.shape[2] <= max(MAX_WIDTH, 4096)
    enlarge, reduce = panel_scale(height, width, count)
    assert 1 in (enlarge, reduce)
    assert min(height, width) * enlarge >= MIN_PANEL or count * width * (enlarge + 1) > MAX_WIDTH


def test_a_wide_row_is_reduced_by_the_mean_of_whole_cells() -> None:
    video = np.zeros((1, 1024, 1024, 3), np.uint8)
    video[:, ::2, ::2] = 200  # one pixel in four: the mean of every 2x2 cell is 50
    out = side_by_side([Panel("a", "", video)] * 4)
    assert panel_scale(1024, 1024, 4) == (1, 2)
    assert (out[0, -100, 100:400] == 50).all()


def test_videos_of_different_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="sizes"):
        side_by_side([Panel("a", "", clip(1)), Panel("b", "", clip(1, height=8))])
    with pytest.raises(ValueError, match="at least one"):
        side_by_side([Panel("a", "failed")])


def test_a_smaller_picture_is_enlarged_in_its_own_shape_to_stand_beside_a_larger_one() -> None:
    large, small, none = (
        Panel("a", "", clip(7, 1, 16, 24)),
        Panel("b", "20 evaluations", clip(200, 1, 4, 4)),
        Panel("c"),
    )
    panels = of_one_size([large, small, none])
    assert panels[0] is large and panels[2] is none
    assert panels[1].note == "20 evaluations, 4x4"
    frames = panels[1].frames
    assert frames is not None and frames.shape == (1, 16, 24, 3)
    assert (frames[:, :, 4:20] == 200).all(), "a square of 16 in the middle of 24 columns"
    assert (frames[:, :, [0, 23]] != 200).all(), "and nothing beside it"
    assert of_one_size([large, large]) == [large, large]


def test_what_is_missing_is_called_what_it_is() -> None:
    kinds = [side_by_side([Panel("a", "", clip(9)), Panel("b")], noun=noun) for noun in ("video", "picture")]
    assert not np.array_equal(*kinds)
    with pytest.raises(ValueError, match="panels' pictures"):
        side_by_side([Panel("a", "failed")], noun="picture")


def test_the_note_holds_no_time_so_that_the_same_run_gives_the_same_file() -> None:
    assert panel_note({"status": "done", "num_evaluations": 40, "seconds": 1.5}) == "40 evaluations"
    assert panel_note({"status": "failed", "reason": "nan"}) == panel_note({}) == "failed"
