"""A plan is a promise: what a run refuses before its first evaluation, the dry run refuses in the same words.

`SITES` has every module that loads and refuses something: the cases that show it here, or why no plan can know it. What
needs no torch is in test_refusals.py; hosting refuses pipelines of other kinds than the commands load, and the levels
and settings that the cases of schedules show.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bridges.dit_moe.demo import WEIGHTS as DIGITS
from tests.support import disk_pairs, dit_moe_reference, tiny, tiny_controls
from tests.support.layouts import save_single_file
from tests.support.tiny_loras import kohya_file
from w2sd_video.commands import app
from w2sd_video.commands.app import family_named

ROOT = Path(__file__).resolve().parents[2]
UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
SMALL = "--height 16 --width 16 --steps 3 --reflections 2 --device cpu"
SDXL = f"image --strong @sdxl --weak-guidance 0 --guidance 2 --prompt x {SMALL}"
FLUX = f"image --strong @flux --weak-guidance 0 --prompt x {SMALL}"
VIDEO = f"video --strong @sdxl --weak @weak --motion-adapter @motion --prompt x --num-frames 2 {SMALL}"
MOE = "moe --strong @moe --classes 3 --steps 3 --reflections 2 --device cpu"
SITES_OF = ("w2sd_video/loading", "bridges/pixel", "bridges/dit_moe")


# -- what is wrong with a good folder ---------------------------------------------------------------------------------


def config(file: str, **changes: Any) -> Callable[[Path], None]:
    """Settings of a JSON file changed."""

    def damage(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def tensors(file: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """The tensors of a file changed."""

    def damage(folder: Path) -> None:
        path = folder / file
        held = change(load_file(path))
        path.unlink()
        save_file(held, path)

    return damage


def without(count: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda held: dict(sorted(held.items())[count:])


def reshaped(held: dict[str, Any]) -> dict[str, Any]:
    return {**held, "conv_in.bias": torch.zeros(3)}


def more(held: dict[str, Any]) -> dict[str, Any]:
    return {**held, "surplus.weight": torch.zeros(1)}


def gone(*files: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return damage


def nothing(folder: Path) -> None:
    """The words alone are wrong."""


def _network_of_another_width(folder: Path) -> None:
    tiny.sd15_unet(1).save_pretrained(folder / "other" / "unet")


def _foreign_lora(folder: Path) -> None:
    network = tiny.sd15_unet(1)
    modules = [name for name, _ in network.named_modules() if name.endswith("attn2.to_k")]
    kohya_file(folder / "lora.safetensors", network, modules)


def _motion_lora(folder: Path) -> None:
    name = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q"
    tensors = {f"{name}_lora.{part}.weight": torch.zeros(1, 1) for part in ("down", "up")}
    save_file(tensors, folder / "lora.safetensors")


def _half_a_lora(folder: Path) -> None:
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
    save_file({name: torch.zeros(4, 32)}, folder / "lora.safetensors")


def _single_file(folder: Path) -> None:
    pipe = disk_pairs.sdxl(1)
    save_single_file(pipe, folder / "one.safetensors")
    tensors("one.safetensors", lambda held: {**held, "model.diffusion_model.more.weight": torch.zeros(1)})(folder)
    disk_pairs.sdxl(1).save_pretrained(folder / "config")


def _adapter_file(folder: Path) -> None:
    save_file(
        {"image_proj.x": torch.zeros(1), "ip_adapter.1.to_k_ip.weight": torch.zeros(4, 7)}, folder / "ip.safetensors"
    )
    shutil.copytree(folder / "sdxl" / "text_encoder", folder / "image_encoder")
    _picture(folder)


def _picture(folder: Path) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16)).save(folder / "picture.png")


def _controlnet(kind: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        net = tiny_controls.sdxl().controlnet if kind == "sdxl" else tiny_controls.sd15().controlnet
        net.save_pretrained(folder / "net")
        _picture(folder)

    return damage


def _moe_file(folder: Path) -> None:
    shapes = dit_moe_reference.published_shapes(**dit_moe_reference.SMALL)
    shapes["blocks.0.attn.q_norm.weight"] = (8,)  # which says how many heads there are, and that all have such norms
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "moe.safetensors")


LORA = f"{SDXL} --lora a=@lora.safetensors:1"
CONTROL = "--controlnet @net --control-image @picture.png"
ADAPTER = "--ip-adapter @ip.safetensors --ip-adapter-image @picture.png"


@dataclass(frozen=True)
class Case:
    """Words that a plan takes for a good folder, what is done to it, and what both the dry run and the run say then."""

    words: str
    damage: Callable[[Path], None]
    says: str


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
LEVELS = "sdxl/scheduler/scheduler_config.json"
CASES = {
    "missing": Case(
        SDXL, tensors(f"sdxl/{UNET}", without(12)), r"the unet of .* lacks 12 tensors.*: (\S+, ){10}\.\.\.;"
    ),
    "surplus": Case(SDXL, tensors(f"sdxl/{UNET}", more), "holds 1 tensors that .*no place for: surplus.weight;"),
    "shape": Case(SDXL, tensors(f"sdxl/{UNET}", reshaped), r"another shape .*: conv_in.bias \(of \(3,\), .* \(8,\)\)"),
    "vae": Case(SDXL, tensors(f"sdxl/{VAE}", without(1)), "the vae of .* lacks 1 tensors"),
    "text encoder": Case(
        FLUX, tensors("flux/text_encoder_2/model.safetensors", without(1)), "the text_encoder_2 of .* lacks 1 tensors"
    ),
    "vocabulary": Case(
        SDXL, config("sdxl/text_encoder/config.json", vocab_size=5), "tokens and its text encoder knows 5"
    ),
    "tokenizer": Case(SDXL, gone("sdxl/tokenizer/tokenizer.json"), "sdxl/tokenizer has none of tokenizer.json"),
    "class": Case(
        SDXL, config("sdxl/model_index.json", unet=["diffusers", "UNetOfTomorrow"]), "the class UNetOfTomorrow"
    ),
    "single file": Case(
        f"image --strong @one.safetensors --config @config --weak-guidance 0 --guidance 2 --prompt x {SMALL}",
        _single_file,
        r"the unet of .* (lacks|holds) \d+ tensors",
    ),
    "lora": Case(
        f"{SDXL} --lora a=@lora.safetensors:1", _foreign_lora, "the LoRA .* does not fit UNet2DConditionModel"
    ),
    "motion lora": Case(
        f"{SDXL} --lora a=@lora.safetensors:1", _motion_lora, "AnimateDiff's motion modules, and UNet2D"
    ),
    "half a lora": Case(LORA, _half_a_lora, "the LoRA .* lacks one of two factors of down"),
    "lora's name": Case(
        f"{SDXL} --lora a.b=@lora.safetensors:1", _foreign_lora, "called 'a.b'; give a name of letters"
    ),
    "lent network": Case(f"{SDXL} --weak @other", _network_of_another_width, "has cross_attention_dim 16 and"),
    "flow's scheduler": Case(f"{FLUX} --scheduler ddim", nothing, "a flow, which samples with euler"),
    "no signal": Case(SDXL, config(LEVELS, **ZERO_SNR), "starts at pure noise .*where a noise prediction says nothing"),
    "no inversion": Case(
        SDXL, config(LEVELS, **ZERO_SNR, prediction_type="v_prediction"), "zero terminal SNR.*use mode=.fused"
    ),
    "prediction": Case(SDXL, config(LEVELS, prediction_type="noise"), "prediction_type='noise'"),
    "steps": Case(SDXL, config(LEVELS, num_train_timesteps=2), "has no 3 steps"),
    "skipped blocks": Case(f"{SDXL} --weak-skip-layers 99", nothing, "skip_layers names '99', which UNet2D"),
    "skipped blocks of the bundled pair": Case(
        "image --weak-skip-layers 99 --device cpu",
        nothing,
        "skip_layers names '99', which UNet2D",
    ),
    "step cache": Case(
        f"video --strong @wan --weak-guidance 0 --prompt x --num-frames 5 --cache first-block=0.1 {SMALL}",
        nothing,
        "WanTransformer3DModel has 1 block",
    ),
    "levels": Case(f"{SDXL} --weak-levels 1000,499", nothing, "levels has timestep 1000, .* from 0 to 999"),
    "levels of the bundled pair": Case("image --weak-levels 0.5 --device cpu", nothing, "levels has timestep 0.5"),
    "levels of a flow": Case(f"{FLUX} --weak-levels turbo", nothing, r"this network is a flow.*turbo-4:5 \(1 for none"),
    "levels that are none": Case(f"{SDXL} --weak-levels fast", nothing, "levels is 'fast'; give timesteps"),
    "motion of Flux": Case(
        f"bridge --video --strong @flux --motion-adapter @motion --weak @sdxl --prompt x --noise-map fixed {SMALL}",
        nothing,
        "is a FluxPipeline; a motion adapter goes with an SDXL or SD 1.5 checkpoint",
    ),
    "motion modules": Case(
        VIDEO,
        tensors("motion/diffusion_pytorch_model.safetensors", without(2)),
        "motion_adapter of .* lacks 2 tensors",
    ),
    "setting of the network": Case(
        VIDEO,
        config("sdxl/unet/config.json", center_input_sample=True),
        "has center_input_sample = True, which",
    ),
    "controlnet": Case(f"{SDXL} {CONTROL}", _controlnet("sd15"), "has cross_attention_dim 16 and the .*Pipeline 32"),
    "no controlnet": Case(f"{SDXL} {CONTROL}", _picture, "there is no ControlNet at"),
    "ip adapter": Case(f"{SDXL} {ADAPTER}", _adapter_file, "told 7 numbers a token, and the .*Pipeline is told 32"),
    "no ip adapter": Case(f"{SDXL} {ADAPTER}", _picture, "there is no IP-Adapter at"),
    "levels of the weak side": Case(
        f"bridge --strong @flux --weak @sdxl --prompt x --noise-map fresh {SMALL} --steps 4 --reflections 1",
        nothing,
        "none of the 1 reflections can be made: the strong model's sigma/alpha there is inf",
    ),
    "experts": Case(
        MOE,
        tensors(f"moe/{UNET.replace('unet', 'transformer')}", without(1)),
        "network of .* lacks 1 tensors",
    ),
    "published experts": Case(
        f"{MOE} --strong @moe.safetensors --vae @sdxl/vae",
        _moe_file,
        "does not fit the network its shapes describe.*missing keys: blocks",
    ),
    "vae of experts": Case(f"{MOE} --vae @moe/vae", tensors(f"moe/{VAE}", without(1)), "the vae of .* lacks 1 tensors"),
    "device": Case(f"{SDXL} --device toaster", nothing, "device 'toaster' cannot be used"),
    "memory": Case(f"{SDXL} --memory weak-offload", nothing, "has nothing to offload from"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    tiny.sdxl(1).save_pretrained(root / "sdxl")
    tiny.sdxl(2).save_pretrained(root / "weak")
    tiny.flux(1).save_pretrained(root / "flux")
    tiny.wan(1).save_pretrained(root / "wan")
    tiny.motion_adapter().save_pretrained(root / "motion")
    shutil.copytree(DIGITS, root / "moe")
    return root


@pytest.fixture
def folder(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy in which weights are links, as its own working folder."""
    for file in good.rglob("*"):
        place = tmp_path / file.relative_to(good)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file() and file.suffix == ".safetensors":
            place.symlink_to(file)
        elif file.is_file():
            shutil.copyfile(file, place)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(case: Case, folder: Path, *more: str) -> int:
    words = [word.replace("@", f"{folder}/") for word in case.words.split()]
    return app.main([*words, "--output", str(folder / "out"), "--quiet", *more])


@pytest.mark.parametrize("name", CASES)
def test_a_dry_run_refuses_what_the_run_refuses(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    case.damage(folder)
    assert run(case, folder, "--dry-run", "--rehearse") == 2
    assert re.search(case.says, capsys.readouterr().err)
    assert not (folder / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("ip adapter",)])  # diffusers says it otherwise
def test_a_run_without_the_rehearsal_would_come_to_the_same(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    family = family_named(case.words.split()[0])
    monkeypatch.setattr(type(family), "rehearse", lambda self, plan: None)
    case.damage(folder)
    with contextlib.suppress(
        NotImplementedError, RuntimeError, TypeError, ValueError
    ):  # what libraries raised without it
        assert run(case, folder, "--methods", "w2sd") in (1, 2)
    results = folder / "out" / "results.jsonl"
    lines = results.read_text().splitlines() if results.exists() else []
    assert all(json.loads(line)["status"] == "failed" for line in lines)


@pytest.mark.parametrize("words", [SDXL, FLUX, VIDEO, MOE])
def test_what_is_not_damaged_is_planned(words: str, folder: Path) -> None:
    assert run(Case(words, lambda _: None, ""), folder, "--dry-run", "--rehearse") == 0


# -- every place that refuses -----------------------------------------------------------------------------------------

HUB = "what comes from the hub is known when it is fetched"
CALLER = "an argument or a state that callers from Python bring, and the commands never do"
VALUES = "the values of weights"
FILES = "by the plan without torch: test_refusals.py, test_loading_refusals.py, contact/"
SITES: dict[str, str] = {
    "bridges/dit_moe/checkpoints.py": f"published experts; {VALUES}: of pickles",
    "bridges/dit_moe/configurations.py": CALLER,
    "bridges/dit_moe/demo/digits.py": CALLER,
    "bridges/dit_moe/family.py": FILES,
    "bridges/dit_moe/files.py": FILES,
    "bridges/dit_moe/labels.py": FILES,
    "bridges/dit_moe/layout.py": "published experts",
    "bridges/dit_moe/network.py": CALLER,
    "bridges/dit_moe/pipeline.py": CALLER,
    "bridges/dit_moe/recording.py": CALLER,
    "bridges/dit_moe/results.py": FILES,
    "bridges/pixel/bridged.py": CALLER,
    "bridges/pixel/family.py": FILES,
    "bridges/pixel/fitting.py": VALUES,
    "bridges/pixel/making.py": f"{HUB}; {VALUES}: whether two VAEs are one",
    "bridges/pixel/mapped.py": f"{FILES}; {VALUES}: for which VAEs a map was fitted",
    "bridges/pixel/noise_maps.py": FILES,
    "bridges/pixel/pictures.py": "read before anything is loaded: bridges/test_bridge_command.py",
    "bridges/pixel/side.py": "levels of the weak side",
    "w2sd_video/loading/animatediff.py": "motion modules; setting of the network",
    "w2sd_video/loading/attachments.py": "controlnet; no controlnet; ip adapter; no ip adapter",
    "w2sd_video/loading/describe.py": FILES,
    "w2sd_video/loading/differences.py": FILES,
    "w2sd_video/loading/files.py": FILES,
    "w2sd_video/loading/fingerprints.py": FILES,
    "w2sd_video/loading/quantised_files.py": FILES,
    "w2sd_video/loading/streaming.py": FILES,
    "w2sd_video/loading/loras.py": "lora; motion lora; half a lora; lora's name",
    "w2sd_video/loading/memory.py": "memory",
    "w2sd_video/loading/pair_description.py": FILES,
    "w2sd_video/loading/parts.py": "missing; surplus; shape; vae; text encoder; single file",
    "w2sd_video/loading/pipelines.py": f"class; flow's scheduler; motion of Flux; {HUB}",
    "w2sd_video/loading/placement.py": "device",
    "w2sd_video/loading/rehearsal.py": "steps; motion of Flux",
    "w2sd_video/loading/tensor_checks.py": "missing; surplus; shape; lora",
    "w2sd_video/loading/tokenizing.py": "vocabulary; tokenizer",
}


def test_every_place_that_refuses_is_known() -> None:
    found = set()
    for room in SITES_OF:
        for file in sorted((ROOT / room).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            if any(
                isinstance(node, ast.Raise) and node.exc and "UserError" in ast.unparse(node.exc)
                for node in ast.walk(tree)
            ):
                found.add(str(file.relative_to(ROOT)))
    assert found <= SITES.keys()
    reasons = (HUB, CALLER, VALUES, FILES)
    for told in SITES.values():
        named = [part for part in told.split("; ") if not part.startswith(reasons) and ": " not in part]
        assert all(part in CASES for part in named), told
