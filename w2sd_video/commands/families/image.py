"""Pictures of a pair in one latent space, by any gap (imports no torch until it loads)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from w2sd_video.commands.families.base import Loading, Maker
from w2sd_video.commands.families.pairs import Described, chosen_preset, complete_pair, describe_pipelines, pair_costs
from w2sd_video.commands.plan import Cost, Plan
from w2sd_video.commands.request import Request
from w2sd_video.demo import PICTURE_PROMPTS
from w2sd_video.presets import PICTURE_PRESETS
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import RunPlan
from w2sd_video.runs.tasks import METHODS

OWN_PAIR = "guidance-sdxl"  # whose settings a pair of the user's own gets


class ImageFamily:
    name = "image"
    about = "pictures of a weak/strong pair in one latent space: SD, SDXL, SD 3.5, Flux"
    examples = """\
  {program}                                the bundled demo, on any machine: guidance 1 over 0
  {program} --prompt "a red ring" --num 4 --mode fused
  {program} --preset guidance-sdxl --prompt "a lighthouse at dusk" --weak-guidance -2 --dry-run
  {program} --preset finetune-sdxl --prompts prompts.txt --memory weak-offload
  {program} --strong ./sdxl --lora art=./art.safetensors:0.8 --weak-lora art:-1.5 --strong-guidance 1 \\
      --weak-guidance 1 --prompt "a fox"
"""
    details = """\
A pair is made of gaps, and they add up: another checkpoint (--weak), LoRA scales (--lora, --weak-lora), guidance
(--weak-guidance), prompts (--weak-prompt, --prompt-pairs), a ControlNet, an IP-Adapter.
"""
    room = "Try --memory weak-offload, a smaller --height and --width, or --memory sequential (slow)."
    methods = METHODS
    presets: Mapping[str, Any] = PICTURE_PRESETS
    programs: Mapping[str, Callable[[Sequence[str]], int]] = {}

    def describe(self, request: Request) -> Described:
        return describe_pipelines(request, *chosen_preset(request, OWN_PAIR))

    def complete(self, request: Request, description: Described) -> Plan:
        return complete_pair(request, description, PICTURE_PROMPTS)

    def cost(self, plan: Plan) -> Mapping[str, Cost]:
        return pair_costs(plan)

    def load(self, plan: Plan, run: Loading) -> Maker:
        from w2sd_video.commands.making import load_pipelines

        return load_pipelines(plan, run)

    def finish(self, plan: Plan, run: RunPlan, maker: Maker | None, progress: Progress) -> Mapping[str, str]:
        return {}


FAMILY = ImageFamily()
