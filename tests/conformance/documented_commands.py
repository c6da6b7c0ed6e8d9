"""Every command line and Python snippet that was documented in the README of version 0.1, as data.

A `Line` stands as it was documented. `also` is appended to make it quick (fewer steps, fewer or smaller pictures),
`instead` replaces words that stand for something of the reader's ("MODEL"), and what would be downloaded or lies on the
reader's disk is put into the working folder by tests/conformance/stand_ins.py under the documented name: a hub id is a
folder of that name. The lines of a `Chapter` run one after the other in one folder; `make` targets stand as the lines
that they run. What each chapter left behind is recorded in documented_results.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Line:
    says: str
    also: str = ""
    instead: Mapping[str, str] = field(default_factory=dict)
    codes: tuple[int, ...] = (0,)

    @property
    def command(self) -> str:
        line = self.says
        for word, other in self.instead.items():
            line = line.replace(word, other)
        return f"{line} {self.also}".strip()


@dataclass(frozen=True)
class Chapter:
    name: str
    lines: tuple[Line, ...]
    needs: tuple[str, ...] = ()
    quick: bool = False  # made in `make test`, where of the others only the words are read


WITH_OR_WITHOUT_A_GPU = (0, 2)  # keeping networks off an accelerator is refused where there is none
FEW = "--steps 3 --reflections 2 --device cpu --quiet"
FEW_FRAMES = f"{FEW} --num-frames 4"
ONE_VIDEO, ONE_PICTURE = '--prompt "a red ring moving left"', '--prompt "a red ring"'
SMALL = f"{FEW} --height 16 --width 16"
SMALL_VIDEO = f"{SMALL} --num-frames 2"
JUGGERNAUT = (
    "RunDiffusion/Juggernaut-XL-v9",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "guoyww/animatediff-motion-adapter-sdxl-beta",
)
ALL = "weak,strong,w2sd,w2sd-auto,resample,resample-aligned,autoguided,swapped,zero-gap"


def _help(*names: str) -> tuple[Line, ...]:
    return tuple(Line(f"python scripts/{name}.py --help") for name in names)


MAKE = (
    Chapter(
        "make demo",
        (
            Line("python scripts/generate_video.py --output outputs/demo", f"{FEW_FRAMES} {ONE_VIDEO}"),
            Line("python scripts/score_demo.py --read outputs/demo"),
            Line("python scripts/make_pictures.py outputs/demo docs/pictures/demo.webp"),
        ),
    ),
    Chapter(
        "make demo-image",
        (
            Line("python scripts/generate_image.py --output outputs/demo-image", f"{FEW} {ONE_PICTURE}"),
            Line("python scripts/make_pictures.py outputs/demo-image gaps.png --across"),
        ),
        quick=True,
    ),
    Chapter(
        "make demo-bridge",
        (Line("python scripts/bridge_image.py --output outputs/demo-bridge", f"{FEW} {ONE_PICTURE}"),),
    ),
    Chapter(
        "make demo-digits",
        (
            Line(
                "python scripts/sample_dit_moe.py --guidance 1 --reflections 20 --expert-load "
                "--output outputs/demo-digits",
                "--steps 4 --reflections 2 --num-images 4 --device cpu --quiet",
            ),
        ),
    ),
    Chapter(
        "make demo-vbench",
        (
            Line(
                "python scripts/evaluate_vbench.py prompts --suite sample --dimensions all --samples 1 "
                "--output outputs/demo-vbench",
                "--num-prompts 2",
            ),
            Line(
                "python scripts/generate_video.py --prompts outputs/demo-vbench/prompts.txt "
                "--methods weak,strong,w2sd --steps 10 --output outputs/demo-vbench/videos",
                FEW_FRAMES,
            ),
            *(
                Line(
                    f"python scripts/evaluate_vbench.py score outputs/demo-vbench/videos/{method} "
                    "--manifest outputs/demo-vbench/manifest.json --output outputs/demo-vbench/scores --quiet",
                    "--device cpu",
                )
                for method in ("weak", "strong", "w2sd")
            ),
            Line(
                "python scripts/evaluate_vbench.py compare outputs/demo-vbench/scores/strong_report.json "
                "outputs/demo-vbench/scores/weak_report.json outputs/demo-vbench/scores/w2sd_report.json "
                "--output outputs/demo-vbench/comparison"
            ),
        ),
    ),
    Chapter(
        "make theory",
        (
            Line("python scripts/theory.py --list"),
            Line("python scripts/theory.py", "--figure figure-12"),
        ),
    ),
    Chapter(
        "make diagnose",
        (Line("python scripts/diagnose.py --output outputs/diagnosis", "--steps 3 --num-frames 4 --quiet"),),
    ),
    Chapter(
        "make score",
        (Line("python scripts/score_demo.py", "--count 1 --methods weak,strong --threads 1 --quiet"),),
    ),
    Chapter("make score-methods", (Line("python scripts/score_methods.py", "--count 1 --part 1/60 --quiet"),)),
    Chapter(
        "make score-bridge",
        (Line("python scripts/score_bridge.py", "--count 1 --methods weak,strong --threads 1 --quiet"),),
    ),
    Chapter(
        "make score-gaps",
        (Line("python scripts/score_gaps.py", "--count 1 --gaps prompt --curves none --quiet"),),
    ),
    Chapter(
        "make score-dataset-gap",
        (Line("python scripts/score_dataset_gap.py", "--count 2 --methods weak,strong --quiet"),),
    ),
    Chapter(  # hours of training, and measurements of many minutes: that they start and explain themselves
        "programs that take long",
        _help(
            "train_demo",
            "train_demo_lora",
            "train_bridge_demo",
            "train_digits",
            "train_dataset_gap",
            "train_still",
            "score_still",
            "score_dataset_gap",
            "score_digits",
            "calibrate_diagnosis",
            "benchmark",
            "benchmark_bridge",
            "benchmark_moe",
            "benchmark_lora",
            "benchmark_vbench",
            "benchmark_start",
            "benchmark_gpu",
        ),
        quick=True,
    ),
    Chapter(
        "make bench",
        (
            Line("python scripts/benchmark_start.py"),
            Line("python scripts/benchmark.py", "--quick"),
            Line("python scripts/benchmark_bridge.py"),
            Line("python scripts/benchmark_moe.py", "--quick"),
            Line("python scripts/benchmark_lora.py", "--quick"),
            Line("python scripts/benchmark_vbench.py", "--quick"),
        ),
    ),
)

ALGORITHMS = (
    Chapter(
        "every algorithm",
        (
            Line(
                f'python scripts/generate_image.py --prompt "a red ring" --num-pictures 2 --methods {ALL}',
                f"{FEW} --output pictures",
            ),
        ),
    ),
    Chapter(
        "every algorithm, videos",
        (
            Line(
                f'python scripts/generate_video.py --prompt "a red ring moving up" --methods {ALL}',
                f"{FEW_FRAMES} --output videos",
            ),
        ),
    ),
    Chapter(
        "settings of a reflection",
        tuple(
            Line(
                f'python scripts/generate_image.py --prompt "a red ring" --methods w2sd,zero-gap {setting}',
                f"{few} --output {number}",
            )
            for number, (setting, few) in enumerate(
                (
                    ("--fixed-point 1", "--steps 20 --reflections 2 --device cpu --quiet"),
                    ("--window 0:0.25", "--steps 4 --reflections 2 --device cpu --quiet"),
                    ("--lag", FEW),
                    ("--strength 2", FEW),
                    ("--strength -1", FEW),
                    ("--every 2", FEW),
                    ("--noise 0.1", FEW),
                    ("--cap 0.5", FEW),
                    ("--mode fused", FEW),
                    ("--mode release", FEW),
                )
            )
        ),
    ),
    Chapter(
        "a reward of one's own",
        (
            Line(
                "python scripts/generate_image.py --methods w2sd-auto --reward my_reward.py:score",
                f'--prompt "a red ring" --output rewarded {FEW}',
            ),
        ),
        needs=("my_reward.py",),
        quick=True,
    ),
)

DOCTOR = (
    Chapter(
        "diagnose a pair",
        (
            Line(
                "python scripts/diagnose.py --strong MODEL --weak MODEL --output outputs/diagnosis",
                '--steps 3 --prompt "a red cat" --device cpu --height 16 --width 16 --quiet',
                {"--strong MODEL": "--strong sdxl-base", "--weak MODEL": "--weak sdxl-weak"},
            ),
            Line("python scripts/diagnose.py --files-only", "--strong flux --weak sdxl-base"),
            Line("python scripts/diagnose.py --files-only"),
        ),
        needs=("sdxl-base", "sdxl-weak", "flux"),
    ),
)

COMMANDS = (
    Chapter(
        "videos from the command line",
        (
            Line(
                'python scripts/generate_video.py --prompt "a green cross moving up" --num-videos 4 '
                "--methods weak,strong,w2sd,zero-gap",
                f"{FEW_FRAMES} --num-videos 1 --output outputs/cross",
            ),
            Line(
                'w2sd-video --prompt "a green cross moving up" --num-videos 4 --methods weak,strong,w2sd,zero-gap',
                "--dry-run",
            ),
            Line("w2sd-video --help"),
            Line("w2sd-video --list-presets"),
        ),
    ),
    Chapter(
        "presets of pictures",
        (
            Line(
                "python scripts/generate_image.py --preset guidance-sdxl --match-evaluations 50 "
                '--prompt "a lighthouse at dusk"',
                "--match-evaluations 8 --height 16 --width 16 --device cpu --quiet --output guidance",
            ),
            Line(
                "python scripts/generate_image.py --preset lora-sdxl --lora xlMoreArtFullV1=more_art.safetensors "
                "--prompts prompts.txt",
                f"{SMALL} --output lora",
            ),
            Line(
                "python scripts/generate_image.py --preset controlnet-sdxl --control-image house.png --canny "
                '--prompt "a house in the snow" --dry-run',
                "--height 16 --width 16",
            ),
            Line(
                "python scripts/generate_image.py --preset controlnet-sdxl --control-image house.png --canny "
                '--prompt "a house in the snow"',
                f"{SMALL} --output control",
            ),
            Line("python scripts/generate_image.py --list-presets"),
        ),
        needs=(
            "stabilityai/stable-diffusion-xl-base-1.0",
            "diffusers/controlnet-canny-sdxl-1.0",
            "more_art.safetensors",
            "prompts.txt",
            "house.png",
        ),
    ),
    Chapter(
        "sweeps",
        (
            Line(
                "python scripts/sweep.py --setting weak-guidance --values=-4:6:2 --output outputs/sweep",
                '--values=-2,2 --quiet -- --prompt "a red ring" --steps 3 --reflections 2 --device cpu',
            ),
            Line(
                "python scripts/sweep.py --setting lambda --values 0:10:5 --videos",
                "--values=0,1 --output curve --quiet "
                '-- --prompt "a red ring moving up" --steps 3 --num-frames 4 --device cpu',
            ),
        ),
    ),
    Chapter(
        "across architectures",
        (
            Line(
                "python scripts/bridge_image.py fit --strong ./flux --weak ./sdxl --pictures ./photographs "
                "--output flux-to-sdxl.safetensors",
                "--height 16 --width 16 --device cpu --quiet",
            ),
            Line(
                'python scripts/bridge_image.py --preset flux-vs-sdxl --prompt "a lighthouse at dusk" '
                "--memory weak-offload --dry-run",
                codes=WITH_OR_WITHOUT_A_GPU,
            ),
            Line(
                'python scripts/bridge_image.py --preset flux-vs-sdxl --prompt "a lighthouse at dusk"',
                f"{SMALL} --noise-map flux-to-sdxl.safetensors --output bridged",
            ),
            Line(
                'python scripts/bridge_image.py --video --strong ./animatediff --weak ./sdxl --prompt "a cat"',
                f"{SMALL_VIDEO} --noise-map fixed --reflections 1 --output bridged-video",
            ),
        ),
        needs=(
            "flux",
            "sdxl",
            "photographs",
            "animatediff",
            "black-forest-labs/FLUX.1-dev",
            "stabilityai/stable-diffusion-xl-base-1.0",
        ),
    ),
    Chapter(
        "a DiT-MoE",
        (
            Line("python scripts/sample_dit_moe.py convert dit_moe_s_8E2A.pt dit-moe-s", "--heads 2"),
            Line(
                "python scripts/sample_dit_moe.py --checkpoint dit-moe-s --vae ./sd-vae-ft-mse --classes 207,360 "
                "--num-images 8 --guidance 1.5 --methods weak,strong,w2sd,zero-gap --expert-load",
                f"--output sampled {FEW}",
            ),
            Line(
                "python scripts/sample_dit_moe.py --checkpoint dit-moe-s --vae ./sd-vae-ft-mse --classes 207,360 "
                "--num-images 8 --guidance 1.5 --methods weak,strong,w2sd,zero-gap --expert-load "
                "--metrics fid,is --inception pt_inception-2015-12-05-6726825d.pth --reference ./photographs",
                "--dry-run",
            ),
        ),
        needs=("dit_moe_s_8E2A.pt", "sd-vae-ft-mse", "photographs", "pt_inception-2015-12-05-6726825d.pth"),
        quick=True,
    ),
    Chapter(
        "evaluation",
        (
            Line("w2sd-vbench prompts --suite sample --num-prompts 4 --output outputs/vbench", "--num-prompts 2"),
            Line(
                "w2sd-video --prompts outputs/vbench/prompts.txt --methods weak,strong,w2sd "
                "--output outputs/vbench/videos",
                FEW_FRAMES,
            ),
            Line(
                "w2sd-vbench score outputs/vbench/videos/strong --output outputs/vbench/scores", "--quiet --device cpu"
            ),
            Line("w2sd-vbench score outputs/vbench/videos/w2sd --output outputs/vbench/scores", "--quiet --device cpu"),
            Line(
                "w2sd-vbench compare outputs/vbench/scores/strong_report.json outputs/vbench/scores/w2sd_report.json "
                "--output outputs/vbench/comparison"
            ),
            Line("w2sd-vbench doctor"),
        ),
    ),
    Chapter(
        "pictures scored",
        (
            Line(
                "w2sd-vbench images photographs",
                "--metrics clip_t --weights clip_vit_b_32=clip --offline --device cpu --output scored --quiet",
            ),
        ),
        needs=("photographs", "clip"),
    ),
    Chapter(
        "real weights",
        (
            Line(
                'w2sd-video --preset juggernaut-vs-sdxl --prompt "a corgi runs on the beach"',
                f"{SMALL_VIDEO} --output preset",
            ),
            Line(
                "w2sd-video --strong finetune.safetensors --weak ./sdxl-base --config ./sdxl-base "
                "--motion-adapter ./motion-adapter --prompts prompts.txt",
                f"{SMALL_VIDEO} --output own",
            ),
        ),
        needs=(*JUGGERNAUT, "finetune.safetensors", "sdxl-base", "motion-adapter", "prompts.txt"),
    ),
    Chapter(
        "plans for real weights",
        tuple(
            Line(
                f'w2sd-video --preset juggernaut-vs-sdxl --prompt "a corgi runs on the beach" --dry-run{words}',
                codes=WITH_OR_WITHOUT_A_GPU if words else (0,),
            )
            for words in ("", " --offload model", " --offload sequential", " --offload group")
        ),
        needs=JUGGERNAUT,
        quick=True,
    ),
)

CHAPTERS = (*MAKE, *ALGORITHMS, *DOCTOR, *COMMANDS)

# -- Python -----------------------------------------------------------------------------------------------------------

AROUND_A_CALL = """
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from w2sd_video import ModelSpec, reflected

pipe = StableDiffusionXLPipeline.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0", dtype=torch.float16)
pipe = pipe.to("cuda")
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
with reflected(pipe, weak=ModelSpec(guidance=0.0), num_reflections=25) as run:  # the gap: guidance 5.5 over 0
    image = pipe("a lighthouse at dusk", guidance_scale=5.5, num_inference_steps=50).images[0]
print(run.num_evaluations, run.num_rows, run.gaps[:3])  # 100 evaluations; 175 network rows
"""

ACROSS_ARCHITECTURES = """
from bridges.pixel.bridged import bridged
from bridges.pixel.noise_maps import Mapped

noise_map = Mapped.load("flux-to-sdxl.safetensors")
with bridged(flux, (sdxl, ModelSpec(guidance=1.0)), num_reflections=10, noise_map=noise_map) as run:
    image = flux("a lighthouse at dusk", num_inference_steps=28, guidance_scale=3.5).images[0]
print(run.num_evaluations, run.num_skipped, run.num_decodes, run.num_encodes)  # 58 if none is skipped
"""

THE_ALGORITHM_ALONE = """
from w2sd_video.core import Level, NoisePath, w2sd

x0 = w2sd(x, levels, strong, weak, NoisePath(), num_reflections=len(levels) - 2, mode="paper")
"""

ROUTING = """
from w2sd_video import ModelSpec, Routing

weak = ModelSpec(routing=Routing("bottom", k=2))
"""

DECODING = """
from w2sd_video.loading.placement import decoding_in_chunks

with decoding_in_chunks(pipe):
    frames = pipe("a lighthouse at dusk", num_frames=2, height=16, width=16, num_inference_steps=2).frames
"""
