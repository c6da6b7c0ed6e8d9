"""Rewards by name: what they are of frames and a prompt, what is refused, and how they fail."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import vbench_image_networks
from tests.support.family_programs import image_request
from vbench_eval.images import IMAGE_METRICS, reward
from vbench_eval.images.rewards import REWARDS
from w2sd_video.commands import rewards
from w2sd_video.commands.rewards import RewardFailedError, RewardSettings, load_reward, oracle_share, plan_reward
from w2sd_video.errors import UserError

OWN = """\
from __future__ import annotations
import dataclasses
@dataclasses.dataclass
class Weight:  # looks its own module up
    value: float = 1.0
def bright(frames, prompt):
    "Mean of the pixels."
    return frames.mean() * Weight().value
def word(frames, prompt): return "good"
def many(frames, prompt): return frames
def digit(frames, prompt): return "7"
def broken(frames, prompt): return 1 / 0
def wordy(frames, prompt): raise RuntimeError("first\\nsecond " + "and so on " * 99)
def ends(frames, prompt): raise SystemExit(3)
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


def planned(preset: str = "picture-demo", size: tuple[int, int] = (32, 32), **given: Any) -> RewardSettings | None:
    request = image_request(**given)
    return plan_reward(request, ("strong", "w2sd-auto"), preset=preset, prompts=("a red ring",), size=size, video=False)


def frames_of(colour: int, shape: int, motion: int) -> np.ndarray:
    """A clip of the toy world [8, 32, 32, 3] that shows these."""
    from w2sd_video.demo import world

    made = world.random_frames(200, torch.Generator().manual_seed(2))
    attributes = made.attributes[:, :3]
    at = next(k for k in range(200) if tuple(attributes[k, :2].tolist()) == (colour, shape))
    return (made.frames[at] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def test_the_oracle_is_the_share_of_what_the_prompt_says_that_is_shown() -> None:
    frames = frames_of(0, 0, 0)[:1]
    assert oracle_share(frames, "a red ring") == 1
    assert oracle_share(frames, "a red square") == oracle_share(frames, "a blue ring") == 0.5
    assert oracle_share(frames, "a blue cross") == 0
    assert oracle_share(frames, "a red ring moving left") == 1, "one frame shows no motion"
    assert oracle_share(np.repeat(frames, 4, axis=0), "a red ring moving left") == pytest.approx(2 / 3)
    assert oracle_share(np.repeat(frames, 4, axis=0), "a red ring standing still") == 1


def test_the_bundled_pairs_have_the_oracle_and_others_must_say() -> None:
    assert planned() == RewardSettings("oracle")
    assert planned("guidance-sdxl", reward="oracle", reward_threshold=0.1) == RewardSettings("oracle", (), 0.1)
    with pytest.raises(UserError, match=r"needs to know what is better; give --reward NAME \(oracle, pickscore"):
        planned("guidance-sdxl")
    assert plan_reward(image_request(), ("w2sd",), preset="x", prompts=(), size=(1, 1), video=False) is None


def test_the_names_are_those_of_the_evaluation() -> None:
    assert tuple(REWARDS) == rewards.NETWORKS
    assert all(REWARDS[name][0] in IMAGE_METRICS[name].weights for name in rewards.NETWORKS)


def test_weights_that_are_not_on_this_machine_are_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VBENCH_EVAL_CACHE", "VBENCH_CACHE_DIR", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(UserError, match=r"PickScore.*is not on this machine.*fetch pickscore.*--reward-weights PATH"):
        planned(reward="pickscore")


def test_a_module_that_fails_to_import_is_refused_with_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise RuntimeError('no licence')")
    with pytest.raises(UserError, match=r"cannot be loaded \(RuntimeError: no licence\)"):
        planned(reward=f"{tmp_path / 'bad.py'}:score")


def test_a_function_of_the_users_gets_the_frames_and_the_prompt_of_the_task(own: str) -> None:
    settings = planned(reward=f"{own}:bright")
    assert settings is not None
    source = hashlib.sha256(Path(own).read_bytes()).hexdigest()[:12]
    assert settings.record() == {"name": f"{own}:bright", "source": source, "threshold": 0.0}
    frames = np.full((1, 8, 8, 3), 7, np.uint8)
    assert load_reward(settings, device="cpu")(frames, "a") == 7
    told: list[str] = []
    selection = settings.selection(lambda f, p: told.append(p) or 1.0, "a red ring")  # type: ignore[func-returns-value]
    assert selection.reward(frames, None) == 1 and told == ["a red ring"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("word", "returned 'good'"),
        ("digit", "returned '7'; it must return a finite number"),
        ("many", "must return a finite"),
        ("broken", "ZeroDivisionError"),
        ("wordy", "RuntimeError: first second and so on"),
        ("ends", "SystemExit: 3"),
    ],
)
def test_a_reward_that_fails_or_is_no_number_says_so_in_a_line(own: str, function: str, said: str) -> None:
    score = load_reward(RewardSettings(f"{own}:{function}"), device="cpu")
    with pytest.raises(RewardFailedError, match=said) as raised:
        score(np.zeros((1, 64, 64, 3), np.uint8), "a")
    text = str(raised.value)
    assert "\n" not in text and len(text) < len(own) + 300


def test_a_lack_of_memory_is_no_failure_of_the_reward(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text("def large(frames, prompt): raise MemoryError\n")
    with pytest.raises(MemoryError):
        load_reward(RewardSettings(f"{tmp_path / 'large.py'}:large"), device="cpu")(
            np.zeros((1, 8, 8, 3), np.uint8), ""
        )


def test_a_network_of_the_evaluation_gives_the_mean_of_its_frames_scores(tmp_path: Path) -> None:
    folder = vbench_image_networks.save_clip(vbench_image_networks.clip(3), tmp_path / "clip")
    settings = planned(reward="pickscore", reward_weights=(str(folder),))
    assert settings is not None and settings.weights == (("pickscore", str(folder)),)
    frames = np.random.default_rng(1).integers(0, 255, (3, 40, 40, 3), np.uint8)
    scores = reward("pickscore", weights=str(folder))(torch.from_numpy(frames), ["a cat"] * 3)
    assert scores.std() > 0
    found = load_reward(settings, device="cpu")(frames, "a cat")
    assert found == pytest.approx(scores.double().mean().item(), abs=1e-6 * scores.abs().max().item())


def test_planning_a_reward_loads_no_network() -> None:
    program = (
        "import sys; from w2sd_video.commands.rewards import plan_reward\n"
        "from tests.support.family_programs import image_request\n"
        "try: plan_reward(image_request(reward='aes'), ('w2sd-auto',), preset='', prompts=(), size=(8, 8), video=0)\n"
        "except ValueError: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).resolve().parents[2]).returncode == 0
