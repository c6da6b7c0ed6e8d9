"""The toy world and its oracle agree, and captions round-trip."""

import pytest
import torch

from w2sd_video.demo import CAPTIONS, DEMO_PROMPTS, oracle, parse_caption, world
from w2sd_video.demo.captions import ALL_ATTRIBUTES


def test_every_caption_names_its_own_attributes():
    assert len(set(CAPTIONS)) == 120
    assert [parse_caption(caption) for caption in CAPTIONS] == list(ALL_ATTRIBUTES)
    assert set(DEMO_PROMPTS) <= set(CAPTIONS)


def test_a_sentence_outside_the_world_is_refused_with_the_words_it_knows():
    with pytest.raises(ValueError, match=r"a purple ring.*COLOUR \(red, "):
        parse_caption("a purple ring moving left")


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_oracle_reads_every_clip_also_with_pixel_noise(noise):
    generator = torch.Generator().manual_seed(0)
    clips = world.random_clips(600, generator)
    frames = clips.frames + noise * torch.randn(clips.frames.shape, generator=generator)
    assert torch.equal(oracle.read(frames.clamp(0, 1)), clips.attributes)


def test_the_oracle_says_unreadable_when_nothing_is_shown():
    empty = torch.full((2, world.NUM_FRAMES, 3, world.SIZE, world.SIZE), world.GROUND)
    assert (oracle.read(empty) == oracle.UNREADABLE).all()


def test_the_oracle_reads_motion_from_time_and_not_from_place():
    attributes = torch.tensor([parse_caption("a red ring moving left")])
    clip = world.render(attributes, torch.zeros(1, 2)).frames
    assert oracle.read(clip)[0, 2] == attributes[0, 2]
    assert oracle.read(clip.flip(1))[0, 2] == parse_caption("a red ring moving right").motion
    assert oracle.read(clip[:, -1:].expand_as(clip))[0, 2] == parse_caption("a red ring standing still").motion


def test_a_wrong_captioner_is_wrong_as_often_as_asked_and_errors_are_nested():
    attributes = world.random_attributes(40_000, torch.Generator().manual_seed(1))
    strong = world.corrupt(attributes, 0.15, torch.Generator().manual_seed(2)) != attributes
    weak = world.corrupt(attributes, 0.30, torch.Generator().manual_seed(2)) != attributes
    for wrong, probability in ((strong, 0.15), (weak, 0.30)):
        for column, kinds in enumerate((6, 4, 5)):
            expected = probability * (1 - 1 / kinds)
            deviation = (expected * (1 - expected) / len(attributes)) ** 0.5
            assert abs(wrong[:, column].float().mean().item() - expected) < 5 * deviation
    assert (weak | ~strong).all()
