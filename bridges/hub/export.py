"""The program `w2sd export-block`: writes the folder that the Hub holds for a family (imports no torch)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from bridges.hub.families import FAMILIES, BlockFamily
from bridges.standalone import HEADER, licence, standalone, write_folder
from w2sd_video.errors import UserError, exit_code

MODULES = ("w2sd_video.hosting.reflection_block", "bridges.hub.guidance")
ROOMS = ("w2sd_video.hosting", "bridges.hub")
CARD = """\
---
library_name: diffusers
license: apache-2.0
tags: [modular-diffusers, w2sd, sampling]
---

# W2SD for {title}

[Weak-to-Strong Diffusion with Reflection](https://arxiv.org/abs/2502.00473) as a block of a modular pipeline: each of
the first lambda steps denoises with the strong model, inverts with a weak one and denoises again. Training-free.

```python
from diffusers import ModularPipelineBlocks, {scheduler}

reflect = ModularPipelineBlocks.from_pretrained("FOLDER_OR_ID", trust_remote_code=True)
blocks = ...                              # your blocks of {title}, e.g. pipe.blocks
pipe = reflect.install(blocks).init_pipeline("MODEL")
pipe.load_components()
pipe.update_components(scheduler={scheduler}.from_config(pipe.scheduler.config), {weak})
pipe(prompt="...", num_inference_steps=50, num_reflections=10)
```

| input | what it is |
|---|---|
{inputs}

A weak network that is left out ({networks}) is the pipeline's own; then `weak_guidance_scale` or `weak_inputs` makes
the gap. `guidance.py` beside this has `WeakToStrongGuidance`, a guider of the first-order form for one network.

**Cost.** T steps with lambda reflections are T + 2 lambda evaluations.

**What was measured.** On small random networks, in a process without the package this is copied from: the latents
agree with that package's `reflected(...)` to 1e-5, and without reflections they are the stock pipeline's, bit for bit.
No quality was measured with {title}; the paper has its own numbers. Compare with the control (no weak network, no gap),
and with more plain steps at equal evaluations.

**Limits.** Schedulers whose steps an inversion can take back: flow Euler, Euler, DDIM, DPM-Solver++(2M). UniPC (the
default of some pipelines) keeps a history that does not hold for a reflected latent, and is refused by name.
"""


def folder_of(family: BlockFamily) -> dict[str, str]:
    """Returns the files of a family's folder: its block, what that needs of core, the guider, config and model card."""
    files = standalone(MODULES, rooms=ROOMS)
    stems = sorted(name.removesuffix(".py") for name in files if name != "guidance.py")
    # diffusers copies from a folder what the first file imports, and not what those files import in turn
    copied = "".join(f"from .{stem} import __doc__ as _{stem}\n" for stem in stems)
    text = family.source().replace("from .reflection_block", f"{copied}from .reflection_block", 1)
    files["block.py"] = HEADER + text
    config = {"_class_name": family.class_name, "auto_map": {"ModularPipelineBlocks": f"block.{family.class_name}"}}
    files["modular_config.json"] = json.dumps(config, indent=2) + "\n"
    files["README.md"] = card(family)
    files["LICENSE"] = licence()
    return files


def card(family: BlockFamily) -> str:
    """Returns the model card."""
    from w2sd_video.hosting.reflection_block import SETTINGS

    weak = [f"weak_{name}" for name in family.networks]
    return CARD.format(
        title=family.title,
        scheduler=family.scheduler,
        networks=", ".join(f"`{name}`" for name in weak),
        weak=", ".join(f"{name}=..." for name in weak),
        inputs="\n".join(f"| `{name}` | {about} |" for name, (_, about) in SETTINGS.items()),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="w2sd export-block",
        description="Write a family's reflection block for diffusers' modular pipelines as a folder for the Hub, which "
        "`ModularPipelineBlocks.from_pretrained(FOLDER, trust_remote_code=True)` loads without this package.",
    )
    parser.add_argument("folder", help="the folder to write, new or empty or of an earlier run")
    parser.add_argument("--family", required=True, help=f"one of {', '.join(FAMILIES)}")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else list(argv))

    def write() -> int:
        if arguments.family not in FAMILIES:
            raise UserError(f"--family is {arguments.family!r}; choose one of {', '.join(FAMILIES)}")
        files = folder_of(FAMILIES[arguments.family])
        folder = write_folder(arguments.folder, files, marks=("modular_config.json",))
        print(f"{folder}: {len(files)} files; push it with `huggingface-cli upload OWNER/NAME {folder}`")
        return 0

    return exit_code(write)
