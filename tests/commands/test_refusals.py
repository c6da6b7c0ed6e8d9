"""What the programs refuse: one table of words and of what the one sentence says, all of it before torch is loaded."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.support import disk_pairs, tiny
from tests.support.disk_pairs import save_pair
from w2sd_video.runs.video_io import write_video

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--height 16 --width 16 --steps 3 --reflections 2"
UNGUIDED = "--guidance 3 --strong-guidance 1 --weak-guidance 1"  # no gap in guidance
CONTROL = "--controlnet @net --control-video @control.mp4"
ADAPTER = "--ip-adapter @net --ip-adapter-image @picture.png"
OWN_TOY = "--strong @sdxl --weak-guidance 0 --prompt 'a red ring' --height 16 --width 16"
START = {  # what the words of a case come after; a flag that stands twice has its last value
    "demo": "video",
    "toy": "image",
    "paper": "video --preset juggernaut-vs-sdxl --prompt x",
    "pair": f"video --strong @strong --weak @weak --prompt 'a ring' --num-frames 2 --guidance 2 {SMALL}",
    "one": f"video --strong @strong --weak @strong --prompt 'a ring' --num-frames 2 {UNGUIDED} {SMALL}",
    "wan": f"video --strong @wan --prompt a --num-frames 5 {SMALL}",
    "sd15": f"video --strong @sd15 --motion-adapter @motion --prompt a --num-frames 3 {UNGUIDED} {SMALL}",
    "cat": "image --preset guidance-sdxl --prompt 'a cat' --height 16",
    "sdxl": f"image --strong @sdxl --prompt 'a cat' {UNGUIDED} {SMALL}",
    "sweep": "sweep",
    "arena": "arena",
}
REFUSED = (
    # presets, sides, files
    ("paper", "--preset jugernaut", "unknown preset 'jugernaut'.*demo, juggernaut.*did you mean 'juggernaut-vs-"),
    ("cat", "--preset guidance-sdlx", "did you mean 'guidance-sdxl'"),
    ("cat", "--preset juggernaut-vs-sdxl", "makes videos: use it with `w2sd video`"),
    ("pair", "--preset lora-sdxl", "makes pictures: use it with `w2sd image`"),
    ("toy", "--weak a/b", "--weak is given without --strong"),
    ("demo", "--strong a/b --prompt x", "--strong is given without --weak"),
    ("paper", "--strong /nowhere/at/all", "does not exist"),
    ("pair", "--weak @cut", "diffusion_pytorch_model.safetensors.*cut short"),
    ("demo", "--config /nowhere", "the config /nowhere would go unused"),
    ("cat", "--weak-config a/b", "leave it out"),
    ("sdxl", "--weak @flux", "different families.*w2sd bridge"),
    ("wan", "--weak @sd15", "makes pictures|different families"),
    ("sdxl", "", "differs in nothing"),
    ("paper", "--weak RunDiffusion/Juggernaut-XL-v9 --weak-guidance 3", "differs in nothing"),
    ("one", "--weak-prompt 'a ring'", "differs in nothing"),
    # flags
    ("demo", "--promt x", r"did you mean --prompt\?"),
    ("demo", "--noise-map auto", "--noise-map auto: it is a flag of w2sd bridge"),
    ("demo", "--format jsn", "invalid choice: 'jsn'"),
    # prompts
    ("demo", "--prompts nowhere.txt", "cannot be read"),
    ("paper", "--prompt ' '", "prompt 2: the prompt is empty"),
    ("demo", "--preset juggernaut-vs-sdxl", "has no prompts of its own"),
    ("one", "--weak-prompt ' '", "the weak prompt: the prompt is empty"),
    ("cat", "--prompt-pairs @pairs.tsv", "leave --prompt, --prompts, --weak-prompt out"),
    ("toy", "--prompt-pairs @lora.safetensors", "binary|UTF-8|columns"),
    # numbers and words
    ("paper", "--methods ,", "no method is given"),
    ("paper", "--mode fusde", "unknown mode 'fusde'.*did you mean 'fused'"),
    ("paper", "--memory disk", "unknown memory plan 'disk'"),
    ("paper", "--steps 10 --reflections 11", "reflections is 11 with 10 steps.*from 0 to 10 "),
    ("pair", "--reflections 3 --mode release", "from 0 to 2 "),
    ("paper", "--guidance 0.5", "guidance is 0.5; sampling takes 1"),
    ("cat", "--guidance 0.5", "sampling takes 1"),
    ("paper", "--height 1001", "height is 1001; it must be a multiple of 8.*1000 or 1008"),
    ("pair", "--width 36", "width is 36; it must be a multiple of 8: use 32 or 40"),
    ("demo", "--width 36", "width is 36; the bundled toy makes 32 x 32 pixels: leave --width out"),
    ("wan", "--height 24", "height is 24; it must be a multiple of 16"),
    ("paper", "--width -8", "width is -8"),
    ("paper", "--fps 0", "fps is 0"),
    ("paper", "--fps 60 --video-format gif", "a gif plays at most 50"),
    ("paper", "--video-format avi", "unknown video format 'avi'"),
    ("paper", f"--seed {2**63 - 1} --num 2", "goes beyond"),
    ("paper", "--num 0", "num is 0"),
    ("pair", "--num-frames 17", "at most 16"),
    ("sd15", "--weak-guidance 0 --num-frames 17", "17 frames asked for; the motion modules of .*motion allow at most"),
    ("wan", "--weak-guidance 0 --num-frames 6", "use 5 or 9"),
    ("cat", "--scheduler ddpm", "unknown scheduler 'ddpm'"),
    ("sd15", "--scheduler pndm", "scheduler.*ddim, euler, dpm-solver"),
    ("demo", "--match-evaluations 10 --steps 3", "--match-evaluations chooses --steps itself.*leave one out"),
    ("toy", "--match-evaluations 10 --reflections 3", "--match-evaluations chooses --reflections itself"),
    # reflections and methods
    ("demo", "--every 0", "every is 0"),
    ("demo", "--window 0.5", "--window is '0.5'; give two fractions"),
    ("demo", "--window 0.5:0.2", "window is .*two fractions"),
    ("demo", "--window 0.9:1", "holds none of the first 10 of 20 steps"),
    ("demo", "--fixed-point 3", "fixed point is 3; it must be a whole number from 0 to 2"),
    ("toy", "--fixed-point 1 --mode fused", "--fixed-point 1 is given with --mode fused.*leave one of the two out"),
    ("demo", "--noise -1", "noise is -1"),
    ("demo", "--cap 0", "cap is 0"),
    ("demo", "--lag --strong-guidance 2", "--lag takes .* give --strong-guidance 1, or leave out --lag"),
    ("toy", "--lag --strong-guidance 2", "give --strong-guidance 1"),
    ("demo", "--lag --weak-guidance 2 --methods swapped", "the weak side of swapped has 2; give --weak-guidance 1"),
    ("demo", "--cap 1 --methods strong,resample", "--cap is given, and none of .*strong, resample"),
    ("toy", "--noise 0.1 --methods strong", "--noise is given"),
    ("demo", "--strong-levels turbo --mode fused --gap-every 1", "--gap-every .* and --strong-levels asks it at other"),
    ("demo", "--weak-levels turbo --methods weak,w2sd", "weak samples with the weak side, which --weak-levels says"),
    ("demo", "--lag --methods w2sd-auto", "--lag is given, and none of the methods"),
    ("demo", "--mode release --methods w2sd-auto", "published code, which has no w2sd-auto"),
    ("demo", "--mode release --methods resample-aligned", "which has no resample-aligned"),
    ("toy", "--guidance 3 --strong-guidance 5 --weak-guidance 3 --methods autoguided", "there both have"),
    ("toy", "--weak-guidance 0.5 --methods weak,w2sd", "by itself the weak side.* leave the method weak out"),
    ("cat", "--preset guidance-flux --height 1024 --weak-negative-prompt blurred", "no negative half"),
    # rewards
    ("demo", "--reward oracle", "--reward is given, and none .*add one that does .w2sd-auto"),
    ("demo", "--reward-threshold 0.1", "--reward-threshold is given"),
    ("toy", "--methods w2sd-auto --reward oracl", "did you mean 'oracle'"),
    ("demo", "--methods w2sd-auto --reward nowhere:score", "cannot be loaded .No module named 'nowhere'"),
    ("toy", "--methods w2sd-auto --reward nowhere.py:score", "there is no file nowhere.py"),
    ("toy", "--methods w2sd-auto --reward math:nothing", "cannot be loaded .*no attribute 'nothing'"),
    ("toy", "--methods w2sd-auto --reward math:pi", "the reward math:pi is no function"),
    ("toy", "--methods w2sd-auto --reward math:sqrt --reward-weights x", "--reward-weights is for pickscore"),
    ("toy", "--methods w2sd-auto --reward aes --reward-weights hps=x", "unknown weights of aes 'hps'"),
    ("toy", "--methods w2sd-auto --reward hps_v2.1 --reward-weights /nowhere", "hps_v2.1 cannot be used.*/nowhere"),
    ("toy", "--methods w2sd-auto --reward-threshold -0.1", "threshold is -0.1; it must be 0"),
    ("toy", "--methods w2sd-auto --reward-threshold nan", "threshold is nan"),
    ("sdxl", "--weak-guidance 0 --methods w2sd-auto --reward oracle", "the oracle reads the toy world only: 'a cat'"),
    ("toy", f"{OWN_TOY} --methods w2sd-auto --reward oracle", "the oracle reads 32 x 32 pixels and these are 16 x 16"),
    ("wan", "--weak @wan --weak-guidance 0 --methods w2sd-auto", "w2sd-auto shows the reward single frames"),
    ("demo", "--preset wan21-size --prompt a --methods w2sd-auto", "w2sd-auto shows the reward single frames"),
    # LoRAs
    ("cat", "--lora style", "NAME=FILE:SCALE"),
    ("cat", "--lora a=@lora.safetensors:inf", "must be a finite number"),
    ("cat", "--lora a=./nowhere.safetensors:1", "there is no LoRA at"),
    ("one", "--lora a=@none.safetensors:1", "there is no LoRA at"),
    ("cat", "--lora a=@weights.safetensors:1", "is no LoRA: it holds 1 tensors such as to_q.weight"),
    ("cat", "--lora a=@cut.safetensors:1", "cut short, corrupt"),
    ("cat", "--weak-lora a:-1", "give --lora a=FILE"),
    ("sdxl", "--lora a=@lora.safetensors:0.8 --weak-lora a:0.8", "differs in nothing"),
    ("one", "--lora a=@lora.safetensors:1 --weak-lora a:1", "differs in nothing"),
    # ControlNets and IP-Adapters
    ("cat", "--control-image @picture.png", "without --controlnet"),
    ("cat", "--controlnet a/b", "give --control-image FILE"),
    ("cat", "--controlnet a/b --control-image no.png", "no picture at no.png"),
    ("cat", "--controlnet a/b --control-image @picture.png --width 24", "is 16 x 16 pixels and the output 24 x 16"),
    ("cat", "--controlnet a/b --control-image @pairs.tsv", "cannot read the control image"),
    ("cat", "--ip-adapter a/b --ip-adapter-image @pairs.tsv", "cannot read the picture for the IP-Adapter"),
    ("cat", "--weak-ip-adapter-scale 0.5", "without --ip-adapter"),
    ("sdxl", "--controlnet @net --control-image @picture.png --weak-control-scale 1", "differs in nothing"),
    ("sdxl", f"{ADAPTER} --weak-ip-adapter-scale 1", "differs in nothing"),
    ("sd15", f"{CONTROL} --weak-control-scale 1", "differs in nothing"),
    ("demo", CONTROL, "no ControlNet for videos of AnimateDiff on SDXL"),
    ("demo", f"--strong @strong {CONTROL}", "no ControlNet for videos of AnimateDiff on SDXL.*SD 1.5 has one"),
    ("demo", f"--strong @sdxl --motion-adapter @motion {CONTROL}", "no ControlNet for videos of AnimateDiff on SDXL"),
    ("demo", f"--preset wan21-guidance {CONTROL}", "no ControlNet for videos of Wan.*SD 1.5"),
    ("wan", CONTROL, "no ControlNet for videos of Wan"),
    ("wan", ADAPTER, "no IP-Adapter for WanPipeline; AnimateDiff on SD 1.5"),
    ("demo", f"{ADAPTER} --prompt 'a ring'", "the bundled pair of videos goes with no IP-Adapter"),
    ("sd15", "--controlnet @net", "needs a picture; give --control-image"),
    ("sd15", "--control-image @frames", "--control-image is given without --controlnet"),
    ("demo", "--canny", "--canny is given without --controlnet"),
    ("sd15", "--controlnet @net --control-image @none.mp4", "there is no video, folder or picture at"),
    ("sd15", "--controlnet @net --control-image @empty", "holds no picture"),
    ("sd15", "--controlnet @net --control-image @lora.safetensors", "cannot read the control video"),
    ("sd15", "--controlnet @net --control-image @wide.mp4", "is 32 x 16 pixels and the output 16 x 16"),
    ("sd15", "--controlnet @net --control-image @long.mp4", "has more than 3 frames and the output 3"),
    ("sd15", f"{CONTROL} --num-frames 4", "has 3 frames and the output 4"),
    # step caches
    ("demo", "--cache first-block=0.1", "UNetMotionModel can have no step cache of diffusers.*leave it out"),
    ("cat", "--cache taylorseer=2", "the UNet of SDXL can have no step cache"),
    ("wan", "--weak-guidance 0 --cache mag", "the cache mag is calibrated for one pass.*first-block=THRESHOLD"),
    ("wan", "--weak-guidance 0 --cache pab=2", "the cache pab keeps one state for all evaluations"),
    ("wan", "--weak-guidance 0 --cache fastercache", "the cache fastercache keeps one state"),
    ("wan", "--weak-guidance 0 --cache first-block", "the cache is 'first-block'; give first-block=THRESHOLD from 0"),
    ("wan", "--weak-guidance 0 --cache first-block=1.5", "the cache is 'first-block=1.5'"),
    ("wan", "--weak-guidance 0 --cache taylorseer=0.5", "the cache is 'taylorseer=0.5'.*STEPS, 1 or more"),
    ("wan", "--weak-skip-layers 0 --cache first-block=0.1", "blocks that --weak-skip-layers leaves out; give one"),
    # outputs
    ("toy", "--output @pairs.tsv", "is a file; give a folder"),
    ("toy", "--output @pairs.tsv/new/run", "cannot be made, as .*pairs.tsv is a file"),
    # sweeps
    ("sweep", "--setting lamda --values 1", "did you mean 'lambda'"),
    ("sweep", "--setting lambda:x --values 1", "unknown setting"),
    ("sweep", "--setting lambda --values 0.5", "give whole numbers"),
    ("sweep", "--setting T --values x", "is no value of T"),
    ("sweep", "--setting T --values 5:1:1", "leads from one to the other"),
    ("sweep", "--setting T --values ,", "no value of T"),
    ("sweep", "--setting mode --values fusde", "did you mean 'fused'"),
    ("sweep", "--setting strength --values 0:1:0.0001", "at most 1000"),
    ("sweep", "--setting lambda --values 99", "from 0 to"),
    ("sweep", "--setting T --values 2 --scorer oracel", "there is no scorer 'oracel'"),
    ("sweep", "--setting T --values 2 --scorer math:nothing", "cannot be loaded"),
    ("sweep", "--setting T --values 2 --scorer math:pi", "is no function"),
    ("sweep", "--setting T --values 2 -- --output x", "stands after the --"),
    ("arena", "--entrants 'auto guidance'", "unknown entrant.*did you mean 'auto-guidance'"),
    ("arena", "--budgets 40,x", "the budgets name 'x'; give whole"),
    ("arena", "--videos --budgets 3", "3 rows have no room for 4 steps of plain"),
    ("arena", "--reward oracel", "there is no scorer 'oracel'"),
    ("arena", "-- --methods w2sd", "the arena has its own: give --entrants"),
    ("arena", "-- --output x", "it is the arena's: give it before"),
    ("sweep", "", "--setting is missing"),
)
PROGRAM = """\
import contextlib, io, json, os, sys
from w2sd_video.commands.app import main
found = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    found.append([code, out.getvalue(), err.getvalue(), os.listdir(), "torch" in sys.modules])
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("refused")
    save_pair(root)
    shutil.copytree(root / "weak", root / "cut")
    weights = root / "cut" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    disk_pairs.sdxl(1).save_pretrained(root / "sdxl")
    tiny.flux(1).save_pretrained(root / "flux")
    tiny.wan(1).save_pretrained(root / "wan")
    tiny.sd15(1).save_pretrained(root / "sd15")
    tiny.motion_adapter().save_pretrained(root / "motion")
    for folder in ("net", "empty", "frames"):
        (root / folder).mkdir()
    save_file({"unet.to_q.lora_A.weight": torch.zeros(1, 1)}, root / "lora.safetensors")
    save_file({"to_q.weight": torch.zeros(1, 1)}, root / "weights.safetensors")
    (root / "cut.safetensors").write_bytes((root / "lora.safetensors").read_bytes()[:-1])
    (root / "pairs.tsv").write_text("a refined prompt\traw\n")
    for name, count, width in (("control", 3, 16), ("wide", 3, 32), ("long", 6, 16)):
        write_video(root / f"{name}.mp4", np.zeros((count, 16, width, 3), np.uint8), 8)
    for path in ("picture.png", "frames/0.png"):
        Image.new("RGB", (16, 16)).save(root / path)
    return root


@pytest.fixture(scope="module")
def answers(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], list[Any]]:
    """What each case comes to, in one process that torch never gets into."""
    lines = [shlex.split(f"{START[start]} {words}".replace("@", f"{disk}/")) for start, words, _ in REFUSED]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(lines),
        cwd=tmp_path_factory.mktemp("here"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(REFUSED, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]} {case[1]}".replace("/", "|"))
def test_what_cannot_be_made_is_refused_in_one_sentence(
    case: tuple[str, str, str], answers: dict[tuple[str, str, str], list[Any]]
) -> None:
    code, out, err, written, torch_loaded = answers[case]
    assert (code, out, written, torch_loaded) == (2, "", [], False), err
    assert re.search(case[2], err) and err.startswith("error: ") and err.count("\n") == 1
