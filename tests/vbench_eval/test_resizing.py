"""Sizes, crops, pads and the unfiltered resize, against numbers worked out by hand."""

import pytest
import torch

from vbench_eval.resizing import centre_crop, imaging_size, pad_to_multiple, resize, shorter_side_size, to_float, unpad


@pytest.mark.parametrize(
    "size, resized",
    [
        ((1024, 1024), (224, 224)),
        ((320, 512), (224, 358)),  # 358.4, cut
        ((720, 1280), (224, 398)),
        ((576, 1024), (224, 398)),
        ((480, 832), (224, 388)),
        ((1280, 720), (398, 224)),
        ((240, 426), (224, 397)),  # 397.6
        ((426, 240), (397, 224)),
        ((100, 100), (224, 224)),
    ],
)
def test_the_shorter_side_becomes_224_and_the_longer_one_is_cut_to_an_integer(size, resized):
    assert shorter_side_size(*size, 224) == resized


@pytest.mark.parametrize(
    "mode, size, resized",
    [
        ("longer", (720, 1280), (288, 512)),
        ("longer", (480, 832), (295, 512)),  # 295.38
        ("longer", (1024, 1024), (512, 512)),
        ("longer", (512, 300), (512, 300)),
        ("longer", (100, 90), (100, 90)),
        ("shorter", (400, 1300), (400, 1300)),
        ("shorter", (720, 1280), (512, 910)),  # 910.2
        ("shorter", (512, 2000), (512, 2000)),
        ("shorter_centercrop", (720, 1280), (512, 910)),
        ("None", (2000, 3000), (2000, 3000)),
    ],
)
def test_imaging_quality_shrinks_only_frames_that_are_larger_than_512(mode, size, resized):
    assert imaging_size(*size, mode) == resized


def test_an_unknown_imaging_mode_is_refused():
    with pytest.raises(ValueError, match="'half'; choose one of longer, shorter, shorter_centercrop, None"):
        imaging_size(10, 10, "half")


@pytest.mark.parametrize("extra, start", [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (7, 4), (9, 4)])
def test_the_middle_of_an_odd_remainder_is_rounded_to_even(extra, start):
    columns = torch.arange(20 + extra).float().expand(1, 3, 20, -1)
    cropped = centre_crop(columns, 20)
    assert cropped.shape == (1, 3, 20, 20)
    assert cropped[0, 0, 0].tolist() == list(range(start, start + 20))
    assert torch.equal(centre_crop(columns.transpose(2, 3), 20), cropped.transpose(2, 3))


def test_a_crop_larger_than_the_frame_is_refused():
    with pytest.raises(ValueError, match="frames are 30x10; a crop of 20x20 does not fit"):
        centre_crop(torch.zeros(1, 3, 10, 30), 20)


def test_without_the_filter_a_shrunk_pixel_knows_only_its_nearest_neighbours():
    # 8 columns to 2: centres at 1.5 and 5.5, so the new pixels are the means of columns 1, 2 and of columns 5, 6.
    row = torch.tensor([0.0, 10, 30, 0, 0, 100, 50, 0]).expand(1, 3, 2, 8)
    plain = resize(row, (2, 2), mode="bilinear", antialias=False)
    assert plain[0, 0, 0].tolist() == [20, 75]
    # With the filter every column within 4 of the centre counts, by a triangle: 0, 10, 30, 0, 0 for the first pixel
    # with the weights 2.5, 3.5, 3.5, 2.5, 1.5, 0.5 (columns 0 to 5).
    weights = [2.5, 3.5, 3.5, 2.5, 1.5, 0.5]
    expected = (10 * 3.5 + 30 * 3.5 + 100 * 0.5) / sum(weights)
    filtered = resize(row, (2, 2), mode="bilinear", antialias=True)
    assert float(filtered[0, 0, 0, 0]) == pytest.approx(expected, rel=1e-6)


def test_bicubic_overshoot_goes_on_beyond_0_and_255():
    # An edge, doubled: the sample a quarter beyond it takes the cubic weights of distance 1.25, 0.25, 0.75 and 1.75
    # with the parameter -0.75, by hand -0.10546875, 0.87890625, 0.26171875 and -0.03515625.
    edge = torch.tensor([0.0, 0, 0, 255, 255, 255]).expand(1, 3, 1, 6)
    doubled = resize(edge, (1, 12), mode="bicubic", antialias=False)[0, 0, 0]
    assert float(doubled.max()) == pytest.approx(255 * (1 + 0.10546875), rel=1e-6)
    assert float(doubled.min()) == pytest.approx(-255 * 0.10546875, rel=1e-6)


def test_frames_of_the_right_size_are_left_alone():
    frames = torch.rand(2, 3, 5, 7)
    assert resize(frames, (5, 7), mode="bicubic", antialias=True) is frames


@pytest.mark.parametrize("height, width, pads", [(16, 24, (0, 0, 0, 0)), (10, 13, (1, 2, 3, 3)), (17, 9, (3, 4, 3, 4))])
def test_pads_split_in_half_with_the_odd_pixel_after_and_repeat_the_border(height, width, pads):
    frames = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    padded, found = pad_to_multiple(frames, 8)
    assert found == pads
    assert padded.shape[2] % 8 == padded.shape[3] % 8 == 0
    assert padded.shape[2] - height < 8 and padded.shape[3] - width < 8
    assert torch.equal(unpad(padded, pads), frames)
    assert torch.equal(padded[:, :, 0, 0], frames[:, :, 0, 0])
    assert torch.equal(padded[:, :, -1, -1], frames[:, :, -1, -1])


def test_frames_become_floats_of_their_grey_levels():
    frames = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).reshape(2, 4, 5, 3)
    floats = to_float(frames)
    assert floats.shape == (2, 3, 4, 5)
    assert floats.dtype == torch.float32
    assert floats[1, 2, 3, 4] == frames[1, 3, 4, 2]
