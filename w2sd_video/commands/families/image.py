"""Pictures of a pair in one latent space, by any gap (imports no torch until it loads)."""

from __future__ import annotations

from w2sd_video.commands.families.pairs import Described, PairFamily, chosen_preset, describe_pipelines
from w2sd_video.commands.request import Request
from w2sd_video.demo import PICTURE_PROMPTS
from w2sd_video.presets import PICTURE_PRESETS

OWN_PAIR = "guidance-sdxl"  # whose settings a pair of the user's own gets


def describe(request: Request) -> Described:
    """Returns what the files of the two sides tell; see `base`."""
    return describe_pipelines(request, *chosen_preset(request, OWN_PAIR))


FAMILY = PairFamily(
    name="image",
    about="pictures of a weak/strong pair in one latent space: SD, SDXL, SD 3.5, Flux",
    examples="""\
  {program}                                the bundled demo, on any machine: guidance 1 over 0
  {program} --prompt "a red ring" --num 4 --mode fused
  {program} --preset guidance-sdxl --prompt "a lighthouse at dusk" --weak-guidance -2 --dry-run
  {program} --preset finetune-sdxl --prompts prompts.txt --memory weak-offload
  {program} --strong ./sdxl --lora art=./art.safetensors:0.8 --weak-lora art:-1.5 --strong-guidance 1 \\
      --weak-guidance 1 --prompt "a fox"
""",
    details="""\
A pair is made of gaps, and they add up: another checkpoint (--weak), LoRA scales (--lora, --weak-lora), guidance
(--weak-guidance), prompts (--weak-prompt, --prompt-pairs), a ControlNet, an IP-Adapter.
""",
    room="Try --memory weak-offload, a smaller --height and --width, or --memory sequential (slow).",
    presets=PICTURE_PRESETS,
    prompts=PICTURE_PROMPTS,
    describe=describe,
)
