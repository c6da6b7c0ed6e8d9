"""A request becomes a plan with every setting known, or is refused before a model is loaded."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.family_programs import costs, planned, video_request
from w2sd_video.commands.options import check_methods, words
from w2sd_video.commands.plan import Plan
from w2sd_video.errors import UserError
from w2sd_video.presets import PRESETS

PAPER = {"preset": "juggernaut-vs-sdxl", "prompts": ("a corgi",)}


def paper(**changes: Any) -> Plan:
    return planned(video_request(**{**PAPER, **changes}))


def test_the_papers_pair_costs_what_the_formula_says() -> None:
    done = paper(methods=("weak", "strong", "w2sd", "zero-gap", "swapped"))
    assert (done.steps, done.num_reflections) == (50, 49)
    assert [costs(done)[method].evaluations for method in done.methods] == [50, 50, 148, 148, 148], (
        "T, and T + 2 lambda"
    )
    # Guidance 3 is two rows, guidance 1 one: T * 2, and lambda * (2 + 1) or, without a gap, lambda * (2 + 2) more.
    assert [costs(done)[method].rows for method in done.methods] == [100, 100, 247, 296, 247]


def test_unset_fields_are_the_presets() -> None:
    preset, done = PRESETS["juggernaut-vs-sdxl"], paper()
    for name in ("steps", "guidance", "num_frames", "height", "width", "fps", "negative_prompt", "motion_adapter"):
        assert (getattr(done, name) if name != "motion_adapter" else done.part(name)) == getattr(preset, name)
    assert (done.strong_guidance, done.weak_guidance, done.reflection.mode) == (3.0, 1.0, "paper")
    assert done.methods == ("weak", "strong", "w2sd", "zero-gap")


def test_fewer_steps_reflect_the_same_share_of_them() -> None:
    assert paper(steps=20).num_reflections == 19
    assert paper(steps=20, reflections=5).num_reflections == 5
    assert paper(steps=1).num_reflections == 0


def test_the_strong_side_reflects_as_it_samples_unless_told_otherwise() -> None:
    done = paper(guidance=5.5)
    assert (done.guidance, done.strong_guidance, done.weak_guidance) == (5.5, 5.5, 1.0)
    done = paper(guidance=5.5, strong_guidance=1.0, weak_guidance=-2.0)
    assert (done.guidance, done.strong_guidance, done.weak_guidance) == (5.5, 1.0, -2.0)


def test_video_i_of_every_prompt_has_seed_plus_i_in_every_method() -> None:
    done = paper(prompts=("a", "b"), seed=7, num=3, methods=("strong", "w2sd"))
    assert {(task.prompt, task.index, task.seed) for group in done.groups() for task in group} == {
        (prompt, index, 7 + index) for prompt in "ab" for index in range(3)
    }
    assert [task.path for task in done.groups()[1]] == ["strong/a-1.mp4", "w2sd/a-1.mp4"]


def test_the_same_request_goes_to_the_same_folder_and_another_elsewhere() -> None:
    assert paper().output == paper().output
    assert paper(methods=("strong", "w2sd", "zero-gap")).output == paper().output, "a method may be added"
    assert paper(memory="model-offload").output == paper().output
    others = [paper(seed=1), paper(steps=10), paper(prompts=("a cat",)), paper(dtype="float32")]
    assert len({paper().output, *(other.output for other in others)}) == 5
    assert paper(output="here").output == Path("here")


def test_exact_repeats_of_a_prompt_are_made_once() -> None:
    assert paper(prompts=("a", "b", "a")).prompts == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"preset": "jugernaut"},
            r"unknown preset 'jugernaut'.*demo, juggernaut-vs-sdxl.*did you mean 'juggernaut-vs-",
        ),
        ({"methods": ()}, "no method is given"),
        ({"mode": "fusde"}, "unknown mode 'fusde'.*did you mean 'fused'"),
        ({"memory": "disk"}, "unknown memory plan 'disk'"),
        ({"steps": 10, "reflections": 11}, "reflections is 11 with 10 steps.*from 0 to 10 "),
        ({"guidance": 0.5}, "guidance is 0.5; sampling takes 1"),
        ({"height": 1001}, "height is 1001; it must be a multiple of 8.*1000 or 1008"),
        ({"width": -8}, "width is -8"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": 60, "video_format": "gif"}, "a gif plays at most 50"),
        ({"video_format": "avi"}, "unknown video format 'avi'"),
        ({"seed": 2**63 - 1, "num": 2}, "goes beyond"),
        ({"num": 0}, "num is 0"),
        ({"prompts": (" ",)}, "prompt 1: the prompt is empty"),
        ({"prompts": ()}, "has no prompts of its own"),
        ({"strong": "/nowhere/at/all"}, "does not exist"),
        ({"preset": None, "strong": "a/b"}, "--strong is given without --weak"),
        ({"weak": "RunDiffusion/Juggernaut-XL-v9", "weak_guidance": 3.0}, "differs in nothing"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_is_allowed(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        paper(**changes)


def test_one_checkpoint_at_two_guidances_is_a_pair() -> None:
    same = "RunDiffusion/Juggernaut-XL-v9"
    assert paper(weak=same).weak_guidance == 1.0


def test_two_checkpoints_of_the_hub_without_a_preset_get_the_papers_settings_and_adapter() -> None:
    done = planned(video_request(strong="a/b", weak="c/d", prompts=("x",)))
    assert (done.steps, done.guidance, done.part("motion_adapter")) == (
        50,
        3.0,
        "guoyww/animatediff-motion-adapter-sdxl-beta",
    )
    assert done.pair.name == "b-vs-d"


@pytest.mark.parametrize("size", ["height", "width"])
def test_sizes_are_multiples_of_8_for_the_demo_too_as_diffusers_asks(size: str) -> None:
    assert getattr(planned(video_request(**{size: 40})), size) == 40
    with pytest.raises(UserError, match=f"{size} is 36; it must be a multiple of 8: use 32 or 40"):
        planned(video_request(**{size: 36}))


def test_methods_are_parsed_from_a_list_with_blanks_and_repeats() -> None:
    assert check_methods(words(" w2sd, strong ,w2sd,")) == ("w2sd", "strong")


def test_no_arguments_are_the_bundled_demo_with_its_prompts_and_its_control() -> None:
    from w2sd_video.demo import DEMO_PROMPTS

    done = planned(video_request())
    assert (done.preset, done.prompts) == ("demo", DEMO_PROMPTS)
    assert done.methods == ("weak", "strong", "w2sd", "zero-gap")
    assert [costs(done)[method].rows for method in done.methods] == [20, 20, 40, 40], "unguided: a row per evaluation"
