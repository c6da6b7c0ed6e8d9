"""Judges of one's own: what they see, under which name they stand, and that they are compared like the rest."""

import pytest
import torch

from tests.support.vbench_backbones import Stub, number_of, numbered
from tests.support.vbench_reports import report, video
from vbench_eval import judges
from vbench_eval.comparing import compare
from vbench_eval.comparison import better
from vbench_eval.errors import UserError
from vbench_eval.judges import Judge, PictureJudge, load_judge
from vbench_eval.one_pass import measure
from vbench_eval.results import report_text
from vbench_eval.scoring import score_folder
from vbench_eval.tables import markdown
from vbench_eval.video_info import About
from vbench_eval.videos import FramesInMemory


class Remembering(Stub):
    """Likes prompts by their length; `seen` are the numbers of the frames."""

    num_frames = 4

    def judge(self, frames: torch.Tensor, prompt: str) -> float:
        self.seen = [number_of(frame) for frame in frames]
        return float(len(prompt))


class Flat(Stub):
    num_frames = 2

    def judge(self, frames: torch.Tensor, prompt: str) -> float:
        return float("nan") if prompt == "a fox" else frames.float().mean().item() + len(prompt)


@pytest.mark.parametrize(
    ("count", "seen"),
    [(8, [0, 2, 4, 6]), (3, [0, 1, 2, 2]), (16, [1, 5, 9, 13]), (17, [0, 4, 8, 14]), (64, [4, 20, 36, 52])],
)
def test_a_judge_sees_the_middles_of_equal_parts_and_a_long_video_takes_no_more_memory(count, seen):
    judge = Remembering()
    case = Judge("judge_x", judge)
    found = measure(FramesInMemory(numbered(count), fps=8), {"judge_x": case}, about=About("a cat"), chunk_bytes=4000)
    assert found.measured["judge_x"]["value"] == 5.0 and judge.seen == seen
    assert (
        "--prompt-file" in measure(FramesInMemory(numbered(4), fps=8), {"judge_x": case}).measured["judge_x"]["reason"]
    )


def test_a_reward_of_pictures_judges_by_its_mean_over_frames(monkeypatch):
    class Reward:
        def __call__(self, pictures, prompts):
            assert prompts == ["a cat"] * len(pictures)
            return torch.arange(len(pictures), dtype=torch.float32)

        def provenance(self):
            return {"file": "x"}

    asked = {}
    monkeypatch.setattr(
        "vbench_eval.images.rewards.reward", lambda name, **settings: asked.update(settings) or Reward()
    )
    judge = load_judge("pickscore", "pickscore", device="cpu")
    assert isinstance(judge, PictureJudge) and judge.num_frames == judges.FRAMES and asked["offline"] is True
    assert judge.judge(numbered(8), "a cat") == 3.5
    assert judge.provenance() == {"id": "pickscore, mean over 8 frames", "file": "x"}


def test_judges_are_journalled_reported_and_compared_under_names_of_their_own(folder, tmp_path):
    def run(choice):
        return score_folder(
            folder,
            dimensions="temporal_flickering",
            judges={"taste": f"tests.vbench_eval.test_judges:{choice}"},
            output=tmp_path / "scores",
            device="cpu",
        )

    written = run("Flat")
    found = {one["prompt"]: one["measured"]["judge_taste"] for one in written.report["videos"]}
    assert found["a fox"]["value"] is None and "not finite" in found["a fox"]["reason"]
    assert written.report["dimensions"]["judge_taste"]["videos"] == 3
    assert written.report["dimensions"]["judge_taste"]["official"] is False
    assert "judge_taste" not in written.eval_results.read_text()
    said = report_text(written)
    assert said.index("judges, in units of their own") < said.index("judge_taste") and "lacking" not in said
    for choice in ("no_such_thing", "torch"):
        with pytest.raises(UserError, match=r"cannot be imported|not a function"):
            run(choice)


def test_a_judge_that_is_none_is_refused_and_more_is_better():
    with pytest.raises(UserError, match=r"returned a OrderedDict, no judge: see .*VideoJudge"):
        load_judge("x", "collections:OrderedDict")
    assert better("judge_x", official=False) == 1
    sides = {k: report([video(f"p{n}", judge_x=n + gain) for n in range(12)]) for k, gain in (("a", 0.0), ("b", 1.0))}
    text = markdown(compare(sides, draws=100))
    assert "Proxies and judges" in text and "judge x" in text and "+1 [" in text
