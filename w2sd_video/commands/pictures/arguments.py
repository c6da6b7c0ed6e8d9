"""The flags of `scripts/generate_image.py` (imports no torch).

Flags that are not given are None: defaults stand in the presets and the request only.
"""

from __future__ import annotations

import argparse

from w2sd_video import __version__
from w2sd_video.commands.command_flags import add_machine, add_output, add_prompts
from w2sd_video.commands.command_line import Parser
from w2sd_video.commands.gap_flags import add_gaps, add_pipeline_gaps
from w2sd_video.commands.method_flags import EXAMPLES, add_refinements, add_reward, method_lines
from w2sd_video.commands.pictures.request import DEFAULT_METHODS, MEMORY_PLANS
from w2sd_video.commands.request import SCHEDULERS
from w2sd_video.pair import MODES
from w2sd_video.presets import PICTURE_PRESETS
from w2sd_video.presets.listing import ListPresets
from w2sd_video.runs.tasks import METHODS

PROGRAM = "generate_image.py"

EPILOG = """\
examples:
  generate_image.py                                the bundled demo, on any machine: guidance 1 over 0
  generate_image.py --prompt "a red ring" --num-pictures 4 --mode fused
{examples}
  generate_image.py --preset guidance-sdxl --prompt "a lighthouse at dusk" --weak-guidance -2 --dry-run
  generate_image.py --preset finetune-sdxl --prompts prompts.txt --memory weak-offload
  generate_image.py --preset prompt-sdxl --prompt-pairs refined-and-raw.tsv
  generate_image.py --strong stabilityai/stable-diffusion-xl-base-1.0 --lora art=./art.safetensors:0.8 \\
      --weak-lora art:-1.5 --strong-guidance 1 --weak-guidance 1 --height 1024 --width 1024 --prompt "a fox"
  generate_image.py --preset controlnet-sdxl --control-image photo.png --canny --prompt "a house"

A pair is made of gaps, and they add up: another checkpoint (--weak), LoRA scales (--lora, --weak-lora), guidance
(--weak-guidance), prompts (--weak-prompt, --prompt-pairs), a ControlNet, an IP-Adapter.

presets (--list-presets has their settings and the paper's numbers):
{presets}

methods:
{methods}

The output folder holds run.json, results.jsonl (a line per picture), one folder per method with "<prompt>-<index>.png",
comparison/ and index.html. Stopped at any moment, the same command finishes the set. Another run is refused in the same
folder; only methods may be added, and --memory, --quiet and --format may change.

exit codes: 0 all pictures are there; 1 a picture failed (results.jsonl says why) or memory ran out; 2 refused: bad
arguments, files or folder, or a disk that is full or read-only (what was finished is kept); 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    presets = "\n".join(f"  {preset.name:18s}{preset.description}" for preset in PICTURE_PRESETS.values())
    parser = Parser(
        prog=PROGRAM,
        description="Make pictures with Weak-to-Strong Diffusion (W2SD) beside weak and strong ones.",
        epilog=EPILOG.format(presets=presets, methods=method_lines(), examples=EXAMPLES.format(program=PROGRAM)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "--list-presets", action=ListPresets, help="print every preset with its settings and the paper's numbers"
    )
    what = parser.add_argument_group("what to show")
    add_prompts(what)
    what.add_argument("--negative-prompt", metavar="TEXT", help="what to steer away from; counts at guidance not 1")
    what.add_argument(
        "--methods",
        metavar="LIST",
        help=f"comma-separated, of {', '.join(METHODS)} (default: of {', '.join(DEFAULT_METHODS)} what can be made)",
    )
    what.add_argument("--num-pictures", type=int, metavar="N", help="per prompt, each from other noise (default: 1)")
    what.add_argument("--seed", type=int, metavar="N", help="picture i starts from the noise of seed N + i (default 0)")
    _add_pair(parser)
    add_gaps(parser.add_argument_group("gaps, beside another checkpoint and guidance"))
    add_pipeline_gaps(parser.add_argument_group("gaps of the pipeline"))
    _add_sampling(parser.add_argument_group("sampling and reflection (default: the preset's)"))
    add_refinements(parser.add_argument_group("settings of a reflection beyond the paper's algorithm"))
    add_reward(parser)
    machine = add_machine(parser)
    machine.add_argument("--memory", metavar="PLAN", help=f"{', '.join(MEMORY_PLANS)} (default: resident)")
    add_output(parser, "FOLDER", "where to write (default: a folder under outputs/ named after the settings)")
    return parser


def _add_pair(parser: argparse.ArgumentParser) -> None:
    pair = parser.add_argument_group("the pair")
    pair.add_argument("--preset", metavar="NAME", help="see below (default: picture-demo)")
    pair.add_argument(
        "--strong", metavar="MODEL", help="strong side: a hub id, a diffusers folder or a .safetensors file"
    )
    pair.add_argument("--weak", metavar="MODEL", help="weak side: the same kinds (default: the strong side's network)")
    for flag, side in (("--config", "strong"), ("--weak-config", "weak")):
        pair.add_argument(
            flag, metavar="FOLDER", help=f"configs, and what is missing, for a {side} .safetensors file; or a hub id"
        )
    for name in ("height", "width"):
        pair.add_argument(f"--{name}", type=int, metavar="PX", help="of the pictures")
    pair.add_argument(
        "--allow-pickle",
        action="store_const",
        const=True,
        help="open .bin weights, which can run code: only if you trust them",
    )


def _add_sampling(how: argparse._ArgumentGroup) -> None:
    how.add_argument("--steps", type=int, metavar="T", help="sampling steps")
    how.add_argument(
        "--guidance", type=float, metavar="G", help="guidance of sampling: 1 (unguided) or more; Flux's embedded one"
    )
    how.add_argument(
        "--reflections", type=int, metavar="L", help="lambda: how many steps, from the noisiest, are reflected"
    )
    how.add_argument(
        "--match-evaluations",
        type=int,
        metavar="N",
        help="choose T and lambda so that W2SD costs what N steps cost: T = N/2, lambda = T/2, rounded down",
    )
    how.add_argument("--mode", metavar="MODE", help=f"{', '.join(MODES)}: Algorithm 1, Theorem 1, the published code")
    how.add_argument(
        "--strength",
        type=float,
        metavar="S",
        help="how much of each reflection's move is made, and the weight of auto-guidance (default: 1)",
    )
    for side in ("strong", "weak"):
        how.add_argument(
            f"--{side}-guidance", type=float, metavar="G", help=f"of the {side} side inside the reflection: any number"
        )
    how.add_argument(
        "--scheduler", metavar="NAME", help=f"{', '.join(SCHEDULERS)} (default: the preset's, or the checkpoint's own)"
    )
