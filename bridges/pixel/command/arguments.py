"""The flags of `scripts/bridge_image.py` (imports no torch).

Flags that are not given are None: defaults stand in the presets and the request only.
"""

from __future__ import annotations

import argparse

from bridges.pixel.command.presets import BRIDGE_PRESETS
from bridges.pixel.command.request import BRIDGE_METHODS, CODECS, MEMORY_PLANS, NOISE_MAPS
from w2sd_video import __version__
from w2sd_video.commands.command_flags import add_machine, add_output, add_prompts
from w2sd_video.commands.command_line import Parser

PROGRAM = "bridge_image.py"

EPILOG = """\
examples:
  bridge_image.py                                  the bundled demo, on any machine: a small Flux over a small SDXL
  bridge_image.py --prompt "a red ring" --num-pictures 4 --strength 2
  bridge_image.py --preset flux-vs-sdxl --prompt "a lighthouse at dusk" --memory weak-offload --dry-run
  bridge_image.py --strong black-forest-labs/FLUX.1-dev --weak ./sdxl-finetune.safetensors \\
      --weak-config stabilityai/stable-diffusion-xl-base-1.0 --height 1024 --width 1024 --prompts prompts.txt
  bridge_image.py --video --strong stabilityai/stable-diffusion-xl-base-1.0 --motion-adapter \\
      guoyww/animatediff-motion-adapter-sdxl-beta --weak ./sd15 --height 1024 --width 1024 --weak-height 512 \\
      --weak-width 512 --prompt "a corgi runs on the beach"
  bridge_image.py fit --strong ./flux --weak ./sdxl --pictures ./photographs --output flux-to-sdxl.safetensors

presets:
{presets}

methods:
{methods}

noise map (how the strong model's noise becomes the weak one's):
  auto          identity where both sides share one latent space; else the preset's, if it was fitted for these VAEs;
                else fitted to pictures that the strong model makes of the first prompts (saved in the output folder)
  FILE          what the subcommand fit saved
  fresh, fixed  seeded noise; shifts samples even without a gap, so for at most half of the steps
  identity      for one latent space

memory plans:
  resident      both pipelines stay on the device; fastest
  weak-offload  the weak pipeline waits on the host and comes to the device for its evaluations
  sequential    both are fetched layer by layer: least memory, many times slower
The text encoders of Flux, SDXL and SD 1.5 encode every prompt first and are dropped; others stay.

The output folder holds run.json, results.jsonl (a line per picture), one folder per method with "<prompt>-<index>.png",
comparison/ and index.html. Stopped at any moment, the same command finishes the set. Another run is refused in the same
folder; only methods may be added, and --memory, --quiet and --format may change.

exit codes: 0 all pictures are there; 1 a picture failed (results.jsonl says why) or memory ran out; 2 refused: bad
arguments, files or folder, or a disk that is full or read-only (what was finished is kept); 130 interrupted
"""

FIT_ABOUT = """\
Fit the noise map of a pair to latents of the same pictures on both sides, and save it for --noise-map FILE. The
pictures are those of a folder, of any kind and size, or made by the strong model (give --prompt or --prompts).
"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    presets = "\n".join(f"  {p.name:14s}{p.description}" + (f";\n{'':16s}{p.paper}" if p.paper else "")
                        for p in BRIDGE_PRESETS.values())  # fmt: skip
    methods = "\n".join(f"  {name:14s}{method.about}" for name, method in BRIDGE_METHODS.items())
    parser = Parser(
        prog=PROGRAM,
        description="Make pictures with W2SD where the weak and the strong model share no latent space: they meet in "
        "pixels (App. E.5). The subcommand fit (see its --help) fits a noise map.",
        epilog=EPILOG.format(presets=presets, methods=methods),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    what = parser.add_argument_group("what to show")
    add_prompts(what)
    what.add_argument("--negative-prompt", metavar="TEXT", help="what to steer away from; Flux needs --true-cfg for it")
    what.add_argument(
        "--methods",
        metavar="LIST",
        help=f"comma-separated, of {', '.join(BRIDGE_METHODS)} (default: weak,strong,w2sd; the demo all)",
    )
    what.add_argument("--num-pictures", type=int, metavar="N", help="per prompt, each from other noise (default: 1)")
    what.add_argument(
        "--seed", type=int, metavar="N", help="picture i starts from the noise of seed N + i (default: 0)"
    )
    _add_pair(parser)
    how = parser.add_argument_group("sampling and reflection (default: the preset's)")
    _add_sampling(how)
    how.add_argument("--reflections", type=int, metavar="L", help="how many steps, from the noisiest, are reflected")
    how.add_argument(
        "--strength", type=float, metavar="S", help="how much of each reflection's move is made (default: 1)"
    )
    how.add_argument("--weak-guidance", type=float, metavar="G", help="guidance of the weak side, by itself and inside")
    how.add_argument("--noise-map", metavar="MAP", help=f"{', '.join(NOISE_MAPS)} or FILE.safetensors (default: auto)")
    how.add_argument(
        "--force-bridge", action="store_const", const=True, help="bridge a pair that shares its latent space, too"
    )
    _add_video(parser)
    machine = _add_machine(parser)
    machine.add_argument("--memory", metavar="PLAN", help=f"{', '.join(MEMORY_PLANS)} (default: resident)")
    add_output(parser, "FOLDER", "where to write (default: a folder under outputs/ named after the settings)")
    return parser


def build_fit_parser() -> argparse.ArgumentParser:
    """Returns the parser of the subcommand fit."""
    parser = Parser(prog=f"{PROGRAM} fit", description=FIT_ABOUT, allow_abbrev=False)
    what = parser.add_argument_group("the pictures")
    what.add_argument("--pictures", metavar="FOLDER", help="pictures to fit to (default: the strong model makes some)")
    add_prompts(what)
    what.add_argument("--num-pictures", type=int, metavar="N", help="how many the strong model makes (default: enough)")
    what.add_argument("--seed", type=int, metavar="N", help="of their noise (default: 0)")
    _add_pair(parser)
    _add_sampling(parser.add_argument_group("how the strong model makes pictures (default: the preset's)"))
    _add_video(parser)
    _add_machine(parser)
    add_output(parser, "FILE", "the noise map's file, FILE.safetensors")
    return parser


def _add_pair(parser: argparse.ArgumentParser) -> None:
    pair = parser.add_argument_group("the pair")
    pair.add_argument("--preset", metavar="NAME", help=f"{', '.join(BRIDGE_PRESETS)} (default: demo, or own-pair)")
    pair.add_argument(
        "--strong", metavar="MODEL", help="strong side: a hub id, a diffusers folder or a .safetensors file"
    )
    pair.add_argument("--weak", metavar="MODEL", help="weak side: the same kinds")
    for flag, side in (("--config", "strong"), ("--weak-config", "weak")):
        pair.add_argument(
            flag, metavar="FOLDER", help=f"configs, and what is missing, for a {side} .safetensors file; or a hub id"
        )
    pair.add_argument("--codec", metavar="CODEC", help=f"{' or '.join(CODECS)} VAEs in the bridge (default: full)")
    for side in ("strong", "weak"):
        pair.add_argument(f"--{side}-tiny-vae", metavar="MODEL", help="for --codec tiny: a folder or a hub id")
    pair.add_argument("--height", type=int, metavar="PX", help="of the strong side's pictures")
    pair.add_argument("--width", type=int, metavar="PX", help="likewise")
    pair.add_argument("--weak-height", type=int, metavar="PX", help="of the weak side's (default: the strong side's)")
    pair.add_argument("--weak-width", type=int, metavar="PX", help="likewise")
    pair.add_argument(
        "--allow-pickle",
        action="store_const",
        const=True,
        help="open .bin weights, which can run code: only if you trust them",
    )


def _add_sampling(how: argparse._ArgumentGroup) -> None:
    how.add_argument("--steps", type=int, metavar="T", help="sampling steps")
    how.add_argument(
        "--guidance", type=float, metavar="G", help="of the strong side: a UNet's guidance, Flux's embedded"
    )
    how.add_argument("--true-cfg", type=float, metavar="G", help="Flux's true guidance, with --negative-prompt")


def _add_video(parser: argparse.ArgumentParser) -> None:
    video = parser.add_argument_group("videos (mp4; the weak model sees them frame by frame)")
    video.add_argument("--video", action="store_const", const=True, help="the strong side is AnimateDiff")
    video.add_argument("--motion-adapter", metavar="MODEL", help="AnimateDiff modules for an SDXL strong side")
    video.add_argument("--num-frames", type=int, metavar="F", help="frames per video (default: 16)")
    video.add_argument("--fps", type=float, metavar="FPS", help="frames per second of the file (default: 8)")


def _add_machine(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    machine = add_machine(parser)
    machine.add_argument("--tiled", action="store_const", const=True, help="VAEs work in tiles: less memory, slower")
    return machine
