"""The doctor's verdict on files: pairs built to fail in each way, as real folders on disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import disk_pairs, tiny, tiny_families
from w2sd_video.diagnosis.program import main
from w2sd_video.latents import noise_levels

ROOT = Path(__file__).resolve().parents[2]
SIZE = ["--height", "16", "--width", "16"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pipelines that go together, or do not, each saved once; tests copy before they change one."""
    root = tmp_path_factory.mktemp("pairs")
    saved: dict[str, Any] = {
        "strong": disk_pairs.sdxl(1),
        "weak": disk_pairs.sdxl(2),
        "other-vae": disk_pairs.sdxl(2, vae_seed=77),
        "other-text": disk_pairs.sdxl(2, text_seed=40),
        "flux": tiny.flux(1),
        "video": tiny.animatediff_sdxl(1),
        "video-sd15": tiny_families.animatediff_sd15(1),
        "sd15": tiny.sd15(2),
        "wan": tiny.wan(1),
        "sd3": tiny_families.sd3(1),
    }
    for name, pipe in saved.items():
        pipe.save_pretrained(root / name)
    saved["weak"].to(torch.float16).save_pretrained(root / "weak-half")
    disk_pairs.save_single_file(disk_pairs.sdxl(2), root / "weak.safetensors")
    tiny.sdxl_unet(5).save_pretrained(root / "network" / "unet")
    return root


def diagnose(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> dict[str, Any]:
    """The report of the command, which must exit with `code`."""
    given = [str(word) for word in words]
    assert main([*given, "--files-only", "--format", "json"]) == code
    return json.loads(capsys.readouterr().out)


def changed(root: Path, into: Path, part: str, name: str = "weak", **settings: Any) -> Path:
    """A copy of a pipeline with other settings in the config of one part; None takes one out."""
    shutil.copytree(root / name, into / "changed")
    file = into / "changed" / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    content = json.loads(file.read_text())
    content.update(settings)
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return into / "changed"


def relations(report: dict[str, Any]) -> dict[str, str]:
    return {row["what"]: row["relation"] for row in report["compared"]}


def test_two_fine_tunes_of_one_family_share_and_the_command_is_ready(folders: Path, capsys: Any) -> None:
    report = diagnose(capsys, "--strong", folders / "strong", "--weak", folders / "weak", *SIZE)
    assert report["verdict"] == "share"
    assert relations(report)["VAE weights"] == relations(report)["text encoder"] == "same"
    assert relations(report)["network weights"] == "differ"
    assert report["next"]["command"].startswith("w2sd image --strong")
    assert report["next"]["problem"] is None


def test_copies_in_half_precision_and_single_files_are_the_same_vae(folders: Path, capsys: Any) -> None:
    half = diagnose(capsys, "--strong", folders / "strong", "--weak", folders / "weak-half", *SIZE)
    assert half["verdict"] == "share" and relations(half)["VAE weights"] == "same"
    single = ["--weak", folders / "weak.safetensors", "--weak-config", folders / "strong"]
    file = diagnose(capsys, "--strong", folders / "strong", *single, *SIZE)
    assert file["verdict"] == "share" and relations(file)["VAE weights"] == "same"
    again = diagnose(capsys, "--strong", folders / "weak", *single, *SIZE, code=1)
    assert again["verdict"] == "refuse" and "same network weights" in again["reason"]


def test_other_vae_weights_of_the_same_shape_go_through_pixels(folders: Path, capsys: Any) -> None:
    report = diagnose(capsys, "--strong", folders / "strong", "--weak", folders / "other-vae", *SIZE)
    assert report["verdict"] == "re-encode"
    assert relations(report)["latents"] == "same" and relations(report)["VAE weights"] == "differ"
    assert report["next"]["command"].startswith("w2sd bridge")
    assert report["next"]["problem"] is None


@pytest.mark.parametrize("settings", [{"scaling_factor": 0.5}, {"shift_factor": 0.1}, {"latents_mean": [0.0] * 4}])
def test_another_scale_of_one_vae_is_an_affine_map(folders: Path, tmp_path: Path, capsys: Any, settings: Any) -> None:
    weak = changed(folders, tmp_path, "vae", **settings)
    report = diagnose(capsys, "--strong", folders / "strong", "--weak", weak, *SIZE)
    assert report["verdict"] == "rescale" and "scale" in report["reason"] + report["means"]
    assert report["next"]["problem"] is None and "w2sd bridge" in report["next"]["command"]


def test_the_affine_map_in_words_is_right(folders: Path, tmp_path: Path, capsys: Any) -> None:
    weak = changed(folders, tmp_path, "vae", scaling_factor=0.5, shift_factor=0.25)
    reason = diagnose(capsys, "--strong", folders / "strong", "--weak", weak, *SIZE)["reason"]
    # (z / 0.13025 + 0 - 0.25) * 0.5, since latents = (mean - shift) * scale on both sides
    assert "weak latent = (strong latent / 0.13025 + -0.25) x 0.5" in reason


def test_v_prediction_beside_eps_is_converted_and_said(folders: Path, tmp_path: Path, capsys: Any) -> None:
    weak = changed(folders, tmp_path, "scheduler", prediction_type="v_prediction")
    report = diagnose(capsys, "--strong", folders / "strong", "--weak", weak, *SIZE)
    assert report["verdict"] == "share" and relations(report)["prediction"] == "differ"
    assert any("predict different things" in remark for remark in report["remarks"])


@pytest.mark.parametrize("settings", [{"beta_schedule": "linear", "beta_end": 0.02}, {"rescale_betas_zero_snr": True}])
def test_other_noise_levels_need_the_bridge(folders: Path, tmp_path: Path, capsys: Any, settings: Any) -> None:
    weak = changed(folders, tmp_path, "scheduler", **settings)
    report = diagnose(capsys, "--strong", folders / "strong", "--weak", weak, *SIZE)
    assert report["verdict"] == "bridge" and relations(report)["noise levels"] == "differ"
    assert report["next"]["problem"] is None


def test_another_spacing_or_sampler_is_no_obstacle(folders: Path, tmp_path: Path, capsys: Any) -> None:
    weak = changed(folders, tmp_path, "scheduler", timestep_spacing="trailing", _class_name="PNDMScheduler")
    report = diagnose(capsys, "--strong", folders / "strong", "--weak", weak, *SIZE)
    assert report["verdict"] == "share" and relations(report)["sampling grid"] == "differ"
    assert any("PNDMScheduler" in remark and "DDIM" in remark for remark in report["remarks"])


def test_another_shift_of_a_flow_is_no_obstacle(folders: Path, tmp_path: Path, capsys: Any) -> None:
    weak = changed(folders, tmp_path, "scheduler", "sd3", shift=1.5)
    other = tiny_families.sd3_transformer(9)
    other.save_pretrained(weak / "transformer")
    report = diagnose(capsys, "--strong", folders / "sd3", "--weak", weak, *SIZE)
    assert report["verdict"] == "share" and relations(report)["noise levels"] == "same"
    assert any("grid" in remark for remark in report["remarks"])


def test_two_architectures_share_where_the_hashes_of_their_vaes_agree(
    folders: Path, tmp_path: Path, capsys: Any
) -> None:
    chroma = changed(folders, tmp_path / "chroma", "transformer", "flux", _class_name="ChromaTransformer2DModel")
    index = json.loads((chroma / "model_index.json").read_text())
    classes = {"_class_name": "ChromaPipeline", "transformer": ["diffusers", "ChromaTransformer2DModel"]}
    (chroma / "model_index.json").write_text(json.dumps({**index, **classes}))
    report = diagnose(capsys, "--strong", folders / "flux", "--weak", chroma)
    assert report["verdict"] == "share" and "two architectures: no bridge is needed" in report["reason"]
    named = next(row for row in report["compared"] if row["what"] == "latent space")
    assert (named["strong"], named["weak"], named["relation"]) == ("Flux.1's", "Flux.1's", "same")
    settings = {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.0609}
    shutil.copytree(chroma, tmp_path / "other")
    tiny.vae(77, scaling_factor=1.5035, **settings).save_pretrained(tmp_path / "other" / "vae")
    assert diagnose(capsys, "--strong", folders / "flux", "--weak", tmp_path / "other")["verdict"] == "re-encode"


def test_a_flow_and_a_noise_path_meet_in_pixels(folders: Path, capsys: Any) -> None:
    report = diagnose(capsys, "--strong", folders / "flux", "--weak", folders / "weak", *SIZE)
    assert report["verdict"] == "bridge" and "flow" in report["reason"]
    assert relations(report)["guidance"] == "differ"
    assert report["next"]["problem"] is None


def test_other_text_encoders_are_a_remark(folders: Path, capsys: Any) -> None:
    report = diagnose(capsys, "--strong", folders / "strong", "--weak", folders / "other-text", *SIZE)
    assert report["verdict"] == "share" and relations(report)["text encoder"] == "differ"
    assert any("encodes the prompts itself" in remark for remark in report["remarks"])


def test_a_network_alone_borrows_the_rest_and_that_is_said(folders: Path, capsys: Any) -> None:
    report = diagnose(capsys, "--strong", folders / "video", "--weak", folders / "network", *SIZE)
    assert report["verdict"] == "share"
    assert any("prediction type too" in remark for remark in report["remarks"])
    assert "w2sd video" in report["next"]["command"] and report["next"]["problem"] is None


def test_motion_modules_that_predict_otherwise_are_refused_as_loading_refuses(
    folders: Path, tmp_path: Path, capsys: Any
) -> None:
    weak = changed(folders, tmp_path, "scheduler", prediction_type="v_prediction")
    report = diagnose(capsys, "--strong", folders / "video", "--weak", weak, code=1)
    assert report["verdict"] == "refuse" and "prediction_type" in report["reason"]


def test_pictures_of_sdxl_are_lent_the_motion_modules(folders: Path, capsys: Any) -> None:
    report = diagnose(capsys, "--strong", folders / "video", "--weak", folders / "weak", *SIZE)
    assert report["verdict"] == "share" and report["next"]["problem"] is None
    assert report["next"]["command"].startswith("w2sd video")


def test_pictures_beside_videos_meet_frame_by_frame_or_not_at_all(folders: Path, capsys: Any) -> None:
    report = diagnose(capsys, "--strong", folders / "video-sd15", "--weak", folders / "sd15", *SIZE)
    assert report["verdict"] == "bridge" and "--video" in report["next"]["command"]
    assert report["next"]["problem"] is None
    for strong, weak in (("wan", "weak"), ("weak", "video"), ("strong", "wan")):
        refused = diagnose(capsys, "--strong", folders / strong, "--weak", folders / weak, code=1)
        assert refused["verdict"] == "refuse" and "makes videos" in refused["reason"] and refused["next"] is None


def test_one_network_needs_a_gap(folders: Path, capsys: Any) -> None:
    assert diagnose(capsys, "--strong", folders / "strong", code=1)["verdict"] == "refuse"
    gap = ["--guidance", "3", "--weak-guidance", "0"]
    report = diagnose(capsys, "--strong", folders / "strong", *gap, *SIZE)
    assert report["verdict"] == "share" and "guidance" in report["reason"] and report["next"]["problem"] is None
    same = diagnose(capsys, "--strong", folders / "weak", "--weak", folders / "weak-half", code=1)
    assert same["verdict"] == "refuse" and "no gap" in same["reason"]


def inpainting(folder: Path) -> None:
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "in_channels": 9}))


def adapter_pipeline(folder: Path) -> None:
    file = folder / "model_index.json"
    file.write_text(file.read_text().replace("StableDiffusionXLPipeline", "StableDiffusionXLAdapterPipeline"))


def without_scheduler(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")


def without_vae_weights(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def truncated(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def broken(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 64)


def broken_json(folder: Path) -> None:
    (folder / "vae" / "config.json").write_text("{")


def other_channels(folder: Path) -> None:
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "latent_channels": 16}))


def pickled(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


DAMAGES: dict[Callable[[Path], None], str] = {
    inpainting: "inpainting",
    adapter_pipeline: "needs more than text",
    without_scheduler: "scheduler has no config",
    without_vae_weights: "no .safetensors weights",
    truncated: "cut short",
    broken: "corrupt",
    broken_json: "cannot read",
    other_channels: "parts of two checkpoints",
    pickled: "pickles",
}


@pytest.mark.parametrize("side", ["strong", "weak"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_side_is_refused_with_the_reason(
    folders: Path, tmp_path: Path, capsys: Any, damage: Callable[[Path], None], side: str
) -> None:
    shutil.copytree(folders / "weak", tmp_path / "damaged")
    damage(tmp_path / "damaged")
    paths = {"strong": folders / "strong", "weak": folders / "strong", side: tmp_path / "damaged"}
    report = diagnose(capsys, "--strong", paths["strong"], "--weak", paths["weak"], code=1)
    assert report["verdict"] == "refuse" and DAMAGES[damage] in report["reason"]
    assert report["next"] is None


def test_what_is_no_model_is_refused_and_what_does_not_exist_is_a_bad_argument(
    folders: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "lora.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    for given in (tmp_path, tmp_path / "notes.txt", tmp_path / "lora.safetensors"):
        report = diagnose(capsys, "--strong", folders / "strong", "--weak", given, code=1)
        assert report["verdict"] == "refuse" and str(given) in report["reason"]
    report = diagnose(capsys, "--strong", folders / "strong", "--weak", tmp_path / "nothing", code=2)
    assert "does not exist" in report["error"]


def test_a_hub_id_that_is_not_here_has_to_be_fetched(folders: Path, capsys: Any) -> None:
    report = diagnose(capsys, "--strong", folders / "strong", "--weak", "someone/a-model-that-is-nowhere")
    assert report["verdict"] == "undecided" and "fetched" in report["reason"]
    assert report["next"]["command"] == "hf download someone/a-model-that-is-nowhere"


@pytest.mark.parametrize(
    "words",
    [
        ["--weak", "somewhere/else"],
        ["--preset", "nonsense"],
        ["--steps", "many"],
        ["--nonsense"],
        ["--preset", "picture-demo", "--weak-config", "x"],
    ],
)
def test_bad_arguments_exit_with_2(capsys: Any, words: list[str]) -> None:
    assert "error" in diagnose(capsys, *words, code=2)


@pytest.mark.parametrize("preset", ["demo", "picture-demo"])
def test_the_bundled_pairs_share(capsys: Any, preset: str) -> None:
    report = diagnose(capsys, "--preset", preset)
    assert report["verdict"] == "share" and report["next"]["problem"] is None


def test_files_are_judged_without_loading_torch(folders: Path) -> None:
    program = (
        "import sys; sys.path[:0] = ['.']; import scripts.diagnose as d; words = sys.argv[1:]; "
        "code = d.main(words); "
        "assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys(); raise SystemExit(code)"
    )
    for weak in ("weak", "flux"):
        words = ["--strong", str(folders / "strong"), "--weak", str(folders / weak), "--files-only", *SIZE]
        subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, check=True, capture_output=True)


def test_the_report_is_kept_where_asked(folders: Path, tmp_path: Path, capsys: Any) -> None:
    report = diagnose(capsys, "--strong", folders / "strong", "--weak", folders / "other-vae", "--output", tmp_path)
    kept = json.loads((tmp_path / "diagnosis.json").read_text())
    assert kept["verdict"] == report["verdict"] == "re-encode"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ],
)
def test_noise_levels_read_from_a_config_are_those_of_the_scheduler(settings: dict[str, Any]) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", **settings}
    )
    read = torch.tensor(noise_levels.log_snr(dict(scheduler.config)), dtype=torch.float64)
    made = scheduler.alphas_cumprod.double().clamp(1e-6, 1 - 1e-6).logit()
    # float32 products of up to 1000 factors: 1000 roundings of 6e-8 of a product near 1 are 6e-5 of 1 - product
    assert torch.allclose(read, made, atol=0.02)


def test_the_schedulers_known_here_are_those_that_are_reflected() -> None:
    from w2sd_video.latents import schedules

    assert set(noise_levels.REFLECTED) == {
        *schedules.GRID,
        *schedules.EULER,
        *schedules.FLOW,
        schedules.DPM,
        schedules.UNIPC,
    }
