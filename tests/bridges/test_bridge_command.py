"""The picture command on tiny pairs saved to disk: what is made, written, resumed, fitted and refused."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, PNDMScheduler
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from PIL import Image

from bridges.pixel import choosing, making
from bridges.pixel.family import FAMILY
from bridges.pixel.mapped import Mapped
from bridges.pixel.presets import BRIDGE_PRESETS, NOISE_MAP
from tests.support import disk_pairs, tiny
from tests.support.layouts import save_single_file
from tests.support.tiny_loras import kohya_file
from w2sd_video.commands import app, engine
from w2sd_video.commands.command_line import request_of
from w2sd_video.commands.families.base import Loading
from w2sd_video.commands.plan import Plan
from w2sd_video.commands.request import Request
from w2sd_video.errors import UserError
from w2sd_video.hosting import NonFiniteLatentError
from w2sd_video.loading.memory import memory_plan
from w2sd_video.loading.placement import place
from w2sd_video.runs.picture_io import read_picture
from w2sd_video.runs.runs import Made
from w2sd_video.runs.tasks import Task
from w2sd_video.runs.video_io import read_video


def main(words: list[str]) -> int:
    return app.run("bridge", words, "w2sd bridge")


QUICK = ("--height", "16", "--width", "16", "--steps", "4", "--reflections", "3", "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bridge")
    tiny.flux(1).save_pretrained(root / "flux")
    tiny.flux(2).save_pretrained(root / "flux-2")
    weak = disk_pairs.sdxl(2)
    weak.save_pretrained(root / "sdxl")
    save_single_file(weak, root / "sdxl.safetensors")
    tiny.sd15(1, scheduler=PNDMScheduler(skip_prk_steps=True)).save_pretrained(root / "sd15")
    tiny.animatediff_sdxl(1).save_pretrained(root / "video")
    for seed in (1, 2):
        tiny_vae(seed).save_pretrained(root / f"tiny-{seed}")
    (root / "pictures").mkdir()
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 255, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((50, 40)).save(root / "pictures" / f"{i}.png")
    words = ["fit", *pair(root), "--pictures", str(root / "pictures"), "--height", "16", "--width", "16", "--quiet"]
    assert main([*words, "--output", str(root / "map.safetensors")]) == 0
    return root


def tiny_vae(seed: int) -> AutoencoderTiny:
    shape = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    return tiny.seeded(seed, lambda: AutoencoderTiny(latent_channels=4, **shape, **blocks)).eval()


def pair(disk: Path, strong: str = "flux", weak: str = "sdxl") -> list[str]:
    return ["--strong", str(disk / strong), "--weak", str(disk / weak)]


def run(disk: Path, output: Path, *words: str, sides: tuple[str, str] = ("flux", "sdxl"), quick: bool = True) -> dict:
    """The records of a run by (method, prompt, index); "" is run.json."""
    known = ["--noise-map", str(disk / "map.safetensors")] if sides == ("flux", "sdxl") else []
    known = [] if "--noise-map" in words else known
    prompt = [] if "--prompt" in words else ["--prompt", "a cat"]
    code = main([*pair(disk, *sides), *(QUICK if quick else ()), *known, *prompt, *words, "--output", str(output)])
    assert code == 0
    lines = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    records = {(line["method"], line["prompt"], line["index"]): line for line in lines}
    return {**records, "": json.loads((output / "run.json").read_text())}


def pixels(output: Path, record: dict[str, Any]) -> np.ndarray:
    return read_picture(output / record["path"]).pixels


# -- what is made ----------------------------------------------------------------------------------------------------


def test_a_run_of_flux_over_a_single_file_writes_and_counts_everything(disk: Path, tmp_path: Path) -> None:
    words = [
        "--strong",
        str(disk / "flux"),
        "--weak",
        str(disk / "sdxl.safetensors"),
        "--weak-config",
        str(disk / "sdxl"),
    ]
    words += [*QUICK, "--noise-map", str(disk / "map.safetensors"), "--prompt", "a/b", "--num-pictures", "2"]
    out = tmp_path / "out"
    assert main([*words, "--methods", "weak,strong,w2sd,zero-gap", "--output", str(out)]) == 0
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    by = {(record["method"], record["index"]): record for record in records}
    assert len(by) == 8 and all(record["status"] == "done" and record["prompt"] == "a/b" for record in records)
    strong, reflected = by["strong", 1], by["w2sd", 1]
    assert strong["num_evaluations"] == 4 and strong["num_decodes"] == 0 and strong["seed"] == 1
    made = reflected["num_reflections"]
    assert made + reflected["num_skipped"] == 3 and made >= 1
    assert reflected["num_evaluations"] == 4 + 2 * made
    assert (reflected["num_decodes"], reflected["num_encodes"]) == (3 * made, 3 * made)
    control = by["zero-gap", 1]
    assert (control["num_evaluations"], control["num_decodes"], control["num_encodes"]) == (10, 9, 9)
    for record in records:
        assert pixels(out, record).shape == (16, 16, 3)
    made_by = [pixels(out, record) for record in (strong, reflected, control)]
    assert not any(np.array_equal(one, other) for one, other in itertools.combinations(made_by, 2))
    assert not np.array_equal(pixels(out, strong), pixels(out, by["strong", 0]))
    settings = read_picture(out / reflected["path"]).metadata
    assert (settings["method"], settings["seed"], settings["prompt"]) == ("w2sd", 1, "a/b")
    assert (out / "index.html").is_file() and len(list((out / "comparison").glob("*.png"))) == 2


def test_run_json_says_what_the_bridge_was(disk: Path, tmp_path: Path) -> None:
    told = run(
        disk, tmp_path / "out", "--methods", "w2sd", "--weak-height", "32", "--weak-width", "32", "--noise-map", "fixed"
    )
    found = told[""]
    assert found["pair"]["strong"] == str(disk / "flux") and found["preset"] == "own-pair"
    assert (found["settings"]["height"], found["settings"]["weak_height"]) == (16, 32)
    assert found["codecs"]["strong"]["class"] == "AutoencoderKL" and found["codecs"]["weak"]["height"] == 32
    assert found["codecs"]["strong"]["fingerprint"] != found["codecs"]["weak"]["fingerprint"]
    assert found["noise_map"]["name"] == "fixed"
    assert any("resized between the sides, antialiased: 16x16 strong, 32x32 weak" in note for note in found["notes"])
    assert any("shifts samples even without a gap" in note for note in found["notes"])


def test_prompts_encoded_beforehand_make_the_same_pictures_as_in_each_call(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--methods", "weak,w2sd", "--negative-prompt", "bad", "--weak-guidance", "3")
    once = run(disk, tmp_path / "once", *words)
    monkeypatch.setattr(making, "can_encode", lambda pipe: False)
    each = run(disk, tmp_path / "each", *words)
    for key in (("weak", "a cat", 0), ("w2sd", "a cat", 0)):
        assert once[key]["num_rows"] == each[key]["num_rows"]
        assert np.array_equal(pixels(tmp_path / "once", once[key]), pixels(tmp_path / "each", each[key]))


def test_true_guidance_of_flux_takes_two_rows_and_changes_the_picture(disk: Path, tmp_path: Path) -> None:
    embedded = run(disk, tmp_path / "embedded", "--methods", "strong", "--negative-prompt", "bad")
    real = run(disk, tmp_path / "real", "--methods", "strong", "--negative-prompt", "bad", "--true-cfg", "3")
    key = ("strong", "a cat", 0)
    assert (embedded[key]["num_rows"], real[key]["num_rows"]) == (4, 8)
    assert not np.array_equal(pixels(tmp_path / "embedded", embedded[key]), pixels(tmp_path / "real", real[key]))


def test_one_latent_space_is_reflected_directly_unless_forced(disk: Path, tmp_path: Path) -> None:
    key, sides = ("w2sd", "a cat", 0), ("flux", "flux-2")
    direct = run(disk, tmp_path / "direct", "--methods", "strong,w2sd,zero-gap", sides=sides)
    control, strong = direct["zero-gap", "a cat", 0], direct["strong", "a cat", 0]
    assert control["num_evaluations"] == 10 and control["num_decodes"] == 0
    assert np.array_equal(*(pixels(tmp_path / "direct", record) for record in (control, strong))), "no gap, no change"
    assert direct[key]["num_evaluations"] == 10 and direct[key]["num_decodes"] == 0
    assert any("no bridge is needed" in note for note in direct[""]["notes"])
    assert direct[""]["noise_map"]["name"] == "identity"
    forced = run(disk, tmp_path / "forced", "--methods", "w2sd", "--force-bridge", sides=sides)
    assert forced[key]["num_decodes"] == 9 and not any("no bridge" in note for note in forced[""]["notes"])


def test_the_roles_can_be_exchanged_with_the_map_turned_round(disk: Path, tmp_path: Path) -> None:
    records = run(disk, tmp_path, "--methods", "weak,swapped", "--weak-height", "32", "--weak-width", "32",
                  "--noise-map", "fixed")  # fmt: skip
    alone, turned = (records[method, "a cat", 0] for method in ("weak", "swapped"))
    assert turned["num_evaluations"] == 4 + 2 * turned["num_reflections"] and turned["num_reflections"] >= 1
    made = [pixels(tmp_path, record) for record in (alone, turned)]
    assert made[0].shape == made[1].shape == (32, 32, 3) and not np.array_equal(*made)


def test_a_fitted_map_serves_both_ways(disk: Path, tmp_path: Path) -> None:
    record = run(disk, tmp_path, "--methods", "swapped")["swapped", "a cat", 0]
    assert record["num_reflections"] >= 1


@pytest.fixture(scope="module")
def loaded(disk: Path) -> making.LoadedBridge:
    """One loaded pair, which encodes a prompt when it is called with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "can_encode", lambda pipe: False)
        return making.load_bridge(in_words(disk), quiet(TASK))


TASK = Task("w2sd", "a cat", 0, 3, "a cat-0", "w2sd/a cat-0.png")


def in_words(disk: Path, *words: str) -> Plan:
    parser = engine.parser_of(FAMILY, "w2sd bridge")
    known = ("--noise-map", str(disk / "map.safetensors"), "--prompt", "a cat", "--seed", "3")
    arguments = parser.parse_args([*pair(disk), *QUICK, *known, *words])
    return engine.on_device(engine.plan_of(FAMILY, request_of("bridge", arguments, lambda message: None)))[0]


@pytest.mark.parametrize(
    ("words", "reflected"),
    [
        (("--every", "2"), 2),
        (("--window", "0.25:0.5"), 1),
        (("--noise", "0.5"), 3),
        (("--cap", "0.001"), 3),
        (("--strong-guidance", "7"), 3),
        (("--weak-prompt", "a dog"), 3),
        (("--strength", "2"), 3),
    ],
)
def test_settings_of_a_reflection_change_the_picture_and_what_it_costs(
    disk: Path, loaded: making.LoadedBridge, words: tuple[str, ...], reflected: int
) -> None:
    plans = (loaded.plan, in_words(disk, *words))
    plain, other = (replace(loaded, plan=plan).make([TASK], lambda count, total: None)[0] for plan in plans)
    assert isinstance(plain, Made) and isinstance(other, Made)
    assert other.counts["num_reflections"] + other.counts["num_skipped"] == reflected
    assert not np.array_equal(plain.frames, other.frames)


def test_costs_can_be_matched_and_a_scheduler_chosen(disk: Path, tmp_path: Path) -> None:
    words = [*pair(disk, "sdxl", "flux"), "--height", "16", "--width", "16", "--device", "cpu", "--quiet"]
    words += ["--prompt", "a cat", "--noise-map", "fixed", "--methods", "strong,w2sd", "--output", str(tmp_path)]
    assert main([*words, "--match-evaluations", "8", "--scheduler", "euler"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["num_evaluations"] for line in lines] == [8, 4 + 2 * lines[1]["num_reflections"]]
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["scheduler"] == "euler"


@pytest.mark.slow
def test_each_side_has_loras_of_its_own(disk: Path, tmp_path: Path) -> None:
    unet = tiny.sdxl(1).unet
    modules = [name for name, _ in unet.named_modules() if name.endswith("attn1.to_q")]
    file = kohya_file(tmp_path / "art.safetensors", unet, modules)
    sides, common = ("sdxl", "sdxl"), ("--methods", "strong,weak,w2sd", "--noise-map", "identity", "--force-bridge")
    made = {}
    for name, words in {
        "none": (),
        "strong": ("--lora", f"art={file}:5"),
        "weak": ("--weak-lora", f"art={file}:5"),
    }.items():
        records = run(disk, tmp_path / name, *common, *words, sides=sides)
        made[name] = {m: pixels(tmp_path / name, records[m, "a cat", 0]).tobytes() for m in ("strong", "weak", "w2sd")}
    assert made["none"]["weak"] == made["strong"]["weak"] and made["none"]["strong"] == made["weak"]["strong"]
    assert made["none"]["strong"] != made["strong"]["strong"] and made["none"]["weak"] != made["weak"]["weak"]
    assert len({each["w2sd"] for each in made.values()}) == 3


def test_tiny_vaes_take_the_place_of_the_full_ones(disk: Path, tmp_path: Path) -> None:
    words = ["--codec", "tiny", "--strong-tiny-vae", str(disk / "tiny-1"), "--weak-tiny-vae", str(disk / "tiny-2")]
    records = run(disk, tmp_path / "out", *words, "--methods", "w2sd", "--noise-map", "fixed")
    assert {codec["class"] for codec in records[""]["codecs"].values()} == {"AutoencoderTiny"}
    assert records["w2sd", "a cat", 0]["num_decodes"] > 0


def test_a_scheduler_that_cannot_be_reflected_is_replaced_and_said(disk: Path, tmp_path: Path) -> None:
    records = run(disk, tmp_path / "out", "--methods", "strong,w2sd", "--noise-map", "fixed", sides=("sd15", "flux"))
    assert records["w2sd", "a cat", 0]["num_evaluations"] == 10
    assert any("samples with DDIMScheduler: its own PNDMScheduler" in note for note in records[""]["notes"])


def test_an_animatediff_strong_makes_videos_with_an_image_model_frame_by_frame(disk: Path, tmp_path: Path) -> None:
    words = ("--video", "--num-frames", "2", "--noise-map", "fixed")
    records = run(disk, tmp_path / "out", *words, sides=("video", "flux"))
    assert {key[0] for key in records if key} == {"strong", "w2sd", "zero-gap"}
    record = records["w2sd", "a cat", 0]
    assert record["path"].endswith(".mp4") and (record["frames"], record["fps"]) == (2, 8.0)
    assert (record["num_evaluations"], record["num_decodes"]) == (10, 9)
    assert read_video(tmp_path / "out" / record["path"]).frames.shape == (2, 16, 16, 3)


def test_a_picture_that_is_not_finite_is_recorded_and_the_others_go_on(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, role: str, prompt: str, *given: Any) -> Any:
        if prompt == "bad":
            raise NonFiniteLatentError(1, 4, "the strong model", "float16 overflows")
        return call(self, role, prompt, *given)

    call = making.LoadedBridge._call
    monkeypatch.setattr(making.LoadedBridge, "_call", fail)
    words = [*pair(disk), *QUICK, "--prompt", "bad", "--prompt", "good", "--methods", "strong"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [(line["prompt"], line["status"]) for line in lines] == [("bad", "failed"), ("good", "done")]


def test_with_no_model_named_the_bundled_pair_is_run_with_the_map_that_comes_with_it(tmp_path: Path) -> None:
    plan = planned_of()
    assert plan.methods == ("weak", "strong", "w2sd", "zero-gap") and len(plan.prompts) == 8
    words = ["--prompt", "a yellow cross", "--methods", "strong,w2sd", "--steps", "6", "--quiet", "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["preset"] == "demo" and found["noise_map"]["origin"] == "the preset's"
    assert found["settings"]["reflections"] == 2 and not (tmp_path / NOISE_MAP).exists()


# -- the noise map ---------------------------------------------------------------------------------------------------


def test_auto_fits_a_map_once_to_pictures_of_the_strong_model(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choosing, "CELLS", 5 * 64)
    monkeypatch.setattr(choosing, "UNEXPLAINED", 1.0)  # the tiny VAEs are random: no map explains anything
    out = tmp_path / "out"
    first = run(disk, out, "--methods", "w2sd", "--noise-map", "auto")
    assert "making 5 pictures of the strong model to fit the noise map (20 evaluations)" in capsys.readouterr().err
    said = first[""]["noise_map"]
    assert (said["name"], said["num_pictures"], said["num_cells"]) == ("mapped", 5, 5 * 64)
    assert 0 <= said["residual"] <= 1 and said["fingerprints"] == [
        first[""]["codecs"][side]["fingerprint"] for side in ("strong", "weak")
    ]
    map_file, picture = out / NOISE_MAP, out / first["w2sd", "a cat", 0]["path"]
    before = (map_file.read_bytes(), picture.read_bytes())
    picture.unlink()
    monkeypatch.setattr(making, "fitted_map", None)  # fitting again would fail
    again = run(disk, out, "--methods", "w2sd", "--noise-map", "auto")
    assert (map_file.read_bytes(), picture.read_bytes()) == before
    assert again[""]["noise_map"] == said and again[""]["notes"] == first[""]["notes"]


def test_auto_takes_pairs_where_the_best_map_explains_too_little_and_says_why(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "CELLS", 5 * 64)
    records = run(disk, tmp_path, "--methods", "w2sd,zero-gap", "--noise-map", "auto", "--draws", "1")
    said = records[""]["noise_map"]
    assert said["name"] == "paired" and said["residual"] > 0.2
    assert any("unexplained, more than 20%, so noise is paired" in note for note in records[""]["notes"])
    for method, skipped in (("w2sd", 1), ("zero-gap", 0)):
        record = records[method, "a cat", 0]
        assert (record["num_evaluations"], record["num_decodes"]) == (4 + 3 * (3 - skipped), 4 * (3 - skipped))


def test_what_a_map_leaves_unexplained_says_whether_it_can_carry_noise() -> None:
    few, many, most = (
        choosing.Fit(Mapped(torch.eye(2), scale=1.0, residual=share), "fitted") for share in (0.1, 0.4, 0.6)
    )
    assert few.sentence().endswith("leaves 10.0% of the weak side's variance unexplained")
    assert many.sentence().endswith("40.0% of the weak side's variance unexplained, more than 20%, too much to carry "
                                    "noise: --noise-map paired needs no map")  # fmt: skip
    assert "so noise is paired; above 50% nothing was gained" in most.chosen(2).sentence()
    assert many.chosen(2).paired and not few.chosen(2).paired and not many.chosen(0).paired


def test_paired_noise_is_planned_and_of_each_pictures_own_seed(disk: Path, tmp_path: Path) -> None:
    words = ("--methods", "w2sd", "--noise-map", "paired", "--draws", "3")
    both = run(disk, tmp_path / "both", *words, "--num", "2")
    alone = run(disk, tmp_path / "alone", *words, "--seed", "1")
    assert both[""]["settings"]["draws"] == 3 and both[""]["settings"]["noise_map"] == "paired"
    assert both[""]["noise_map"] == {"name": "paired", "origin": "paired, of both models' own"}
    second, same = both["w2sd", "a cat", 1], alone["w2sd", "a cat", 0]
    assert np.array_equal(pixels(tmp_path / "both", second), pixels(tmp_path / "alone", same))
    cost = FAMILY.cost(planned(disk, steps=4, reflections=3, noise_map="paired", draws=3))["w2sd"]
    assert (cost.evaluations, cost.counts) == (4 + 3 * 7, {"vae_calls": 24})
    assert second["num_evaluations"] == 4 + 7 * second["num_reflections"]
    assert second["num_encodes"] == second["num_decodes"] == 4 * second["num_reflections"]


def test_the_pictures_a_map_is_fitted_to_are_none_of_the_runs(disk: Path) -> None:
    plan = planned(disk, steps=2, prompts=("a cat", "a dog"))
    waiting: list[Any] = []
    bridge = making.LoadedBridge(plan, making._pipeline(plan, "strong", quiet(), waiting), None)
    making._place(bridge, list(plan.prompts), waiting)
    fitted = torch.cat(list(bridge.pictures(3)))
    assert fitted.shape == (3, 3, 16, 16) and fitted.min() < 0 and fitted.max() <= 1
    own = bridge._call("strong", "a cat", plan.seed, plan.steps)
    assert (fitted - (torch.from_numpy(own).permute(0, 3, 1, 2) * 2 - 1)).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_a_presets_map_is_taken_where_it_fits_and_passed_over_where_not(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(disk)
    monkeypatch.setattr(choosing, "CELLS", 64)
    for weak, wanted in (("sdxl", "the preset's"), ("sd15", None)):
        spaces = making.load_spaces(planned(disk, weak=str(disk / weak)))
        known = making.known_map(with_preset_map(plan, disk / "map.safetensors"), spaces)
        assert (known and known.origin) == wanted


def with_preset_map(plan: Any, path: Path) -> Any:
    return replace(plan, own=replace(plan.own, preset_map=path, noise_map="auto"))


def test_what_a_map_draws_is_of_the_pictures_seed_and_not_of_the_runs(disk: Path) -> None:
    found = Mapped(torch.eye(8)[:, :4], 1.0, seed=5)  # four of eight directions are drawn
    bridge = making.LoadedBridge(planned(disk), None, None, chosen=making.Fit(found, "made here"))
    noise, shape = torch.zeros(1, 4, 2, 2), torch.Size((1, 8, 2, 2))
    first, again, other = (bridge._noise(seed, False)["noise_map"](noise, shape) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_map_can_be_fitted_to_what_the_strong_model_makes(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "made.safetensors"
    words = ["--height", "16", "--width", "16", "--steps", "1", "--num-pictures", "65", "--prompt", "a cat"]
    assert main(["fit", *pair(disk), *words, "--device", "cpu", "--quiet", "--output", str(target)]) == 0
    assert Mapped.load(target).num_pictures == 65


def test_a_fitted_map_names_the_pictures_and_its_residual(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", *pair(disk), "--pictures", str(disk / "pictures"), "--height", "16", "--width", "16"]
    assert main([*words, "--format", "json", "--output", str(tmp_path / "m.safetensors")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["noise_map"]["num_pictures"] == 8 and report["status"] == "done"
    assert 0 <= report["noise_map"]["residual"] <= 1
    assert main([*words, "--dry-run", "--output", str(tmp_path / "n.safetensors")]) == 0
    assert "fitted to the pictures of" in capsys.readouterr().out and not (tmp_path / "n.safetensors").exists()


# -- memory plans ----------------------------------------------------------------------------------------------------


# The processor stands in for the accelerator: the same hooks move everything, onto the device it is on already.
def test_a_weak_side_kept_on_the_host_makes_the_same_picture(disk: Path, tmp_path: Path) -> None:
    frames = []
    for memory in ("resident", "weak-offload"):
        plan = planned(disk, steps=4, reflections=3, memory=memory, noise_map=str(disk / "map.safetensors"))
        task = Task("w2sd", "a cat", 0, 0, "a cat-0", "w2sd/a cat-0.png")
        bridge = making.load_bridge(plan, quiet(task))
        assert _is_group_offload_enabled(bridge.weak.unet) == (memory == "weak-offload")
        assert not _is_group_offload_enabled(bridge.strong.transformer)
        assert bridge.strong.text_encoder_2 is None
        frames.append([bridge.make([task], lambda count, total: None)[0].frames for _ in range(2)])
    assert np.array_equal(frames[0], frames[1])


def test_sequential_offloading_reaches_every_network_of_both_sides(disk: Path) -> None:
    sides = [tiny.flux(1), tiny.sdxl(1)]
    place(*sides, "cpu", "sequential")
    networks = [part for pipe in sides for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert len(networks) == 8 and all(any(hasattr(m, "_hf_hook") for m in part.modules()) for part in networks)


def test_a_plan_that_offloads_is_refused_where_there_is_nothing_to_offload_from() -> None:
    memory_plan("resident", "cpu")
    for plan in ("weak-offload", "sequential"):
        with pytest.raises(UserError, match="the device is cpu"):
            memory_plan(plan, "cpu")


# -- plans and refusals, before any model is loaded ------------------------------------------------------------------


def planned_of(**settings: Any) -> Plan:
    request = Request("bridge", **settings)
    return engine.plan_of(FAMILY, request)


def planned(disk: Path, **settings: Any) -> Plan:
    given = {"strong": str(disk / "flux"), "weak": str(disk / "sdxl"), "prompts": ("a cat",), "height": 16, "width": 16}
    return planned_of(**{**given, "device": "cpu", "dtype": "float32", "memory": "resident", **settings})


def quiet(*pending: Task) -> Loading:
    return Loading(pending, note=lambda message: None, say=lambda message: None)


def test_the_papers_pair_is_a_preset_with_its_numbers() -> None:
    plan = planned_of(preset="flux-vs-sdxl", prompts=("a lighthouse",))
    sides = (plan.pair.strong.checkpoint, plan.pair.weak.checkpoint)
    assert sides == ("black-forest-labs/FLUX.1-dev", "stabilityai/stable-diffusion-xl-base-1.0")
    assert (plan.steps, plan.num_reflections, plan.height, plan.width) == (28, 10, 1024, 1024)
    cost = FAMILY.cost(plan)["w2sd"]
    assert (
        plan.guidance == 3.5 and cost.evaluations == 28 + 10 * 5 and cost.counts == {"vae_calls": 80} and cost.at_most
    )
    assert "74 %" in BRIDGE_PRESETS["flux-vs-sdxl"].paper[0].text


def test_flags_override_the_preset_and_reflections_keep_its_share() -> None:
    plan = planned_of(preset="flux-vs-sdxl", prompts=("x",), steps=14, guidance=2.0, height=512)
    assert (plan.num_reflections, plan.guidance, plan.height, plan.own.weak_height, plan.width) == (
        *(5, 2.0, 512, 512, 1024),
    )


def damaged(disk: Path) -> Path:
    broken = disk / "broken.safetensors"
    broken.write_bytes((disk / "map.safetensors").read_bytes()[:200])
    return broken


WORDS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "noise map": (lambda d: ["--noise-map", "fesh"], "did you mean 'fresh'"),
    "map missing": (lambda d: ["--noise-map", "no/map.safetensors"], "there is no noise map at"),
    "map of another kind": (lambda d: ["--noise-map", str(d / "sdxl.safetensors")], "is no noise map"),
    "map damaged": (lambda d: ["--noise-map", str(damaged(d))], "damaged or no safetensors file; fit it again"),
    "draws of a map": (
        lambda d: ["--noise-map", str(d / "map.safetensors"), "--draws", "2"],
        r"--draws is 2, of paired noise, and the noise map is .*; give --noise-map paired, or leave",
    ),
    "no draws": (lambda d: ["--draws", "0"], "draws is 0; it must be a whole number from 1 to 64"),
    "identity": (lambda d: ["--noise-map", "identity"], "scaled and shifted differently"),
    "sizes": (lambda d: ["--height", "20"], "height is 20; it must be a multiple of 8: use 16 or 24"),
    "no size": (lambda d: ["--height", "0"], "height is 0; it must be a whole number from 8"),
    "weak sizes": (lambda d: ["--weak-width", "20"], "weak width is 20; .*--weak-width"),
    "ratio": (
        lambda d: ["--weak-width", "24", "--noise-map", str(d / "map.safetensors")],
        "whole multiple of the other",
    ),
    "true cfg alone": (lambda d: ["--true-cfg", "3"], "give --negative-prompt"),
    "true cfg of one": (lambda d: ["--true-cfg", "1", "--negative-prompt", "x"], "takes more than 1"),
    "strong missing": (lambda d: ["--strong", "no/such/thing"], "does not exist"),
    "memory": (lambda d: ["--memory", "swap"], "unknown memory plan"),
    "codec": (lambda d: ["--codec", "tiny"], "needs a tiny VAE for the strong side"),
    "tiny without codec": (lambda d: ["--weak-tiny-vae", str(d / "tiny-1")], "is for --codec tiny"),
    "tiny of another kind": (
        lambda d: [
            "--codec",
            "tiny",
            "--strong-tiny-vae",
            str(d / "sdxl" / "vae"),
            "--weak-tiny-vae",
            str(d / "tiny-1"),
        ],
        "is a AutoencoderKL; allowed: AutoencoderTiny",
    ),
    "video of pictures": (lambda d: ["--video"], "for --video give AnimateDiff's"),
    "weak of videos": (
        lambda d: ["--weak", str(d / "video")],
        r"makes videos \(AnimateDiffSDXLPipeline\); .* a whole still video for every picture; give the image model",
    ),
    "frames of pictures": (lambda d: ["--num-frames", "4"], "--num-frames is for --video"),
    "motion of pictures": (lambda d: ["--motion-adapter", str(d)], "give --video too"),
    "weak unguided": (lambda d: ["--weak-guidance", "0", "--methods", "weak"], "leave the method weak out"),
    "preset": (lambda d: ["--preset", "flux-over-sdxl"], "did you mean 'flux-vs-sdxl'"),
    "fit to a pickle": (lambda d: ["--output", "map.pt"], "give the noise map's file, such as"),
    "fit to no file": (lambda d: [], "--output is missing; give the noise map's file, such as"),
    "fit to a folder": (
        lambda d: ["--pictures", str(d / "pictures"), "--output", str(d / "folder.safetensors"), "--dry-run"],
        "is a folder; give the noise map's file",
    ),
    "fit of no folder": (
        lambda d: ["--pictures", "no/folder", "--output", "m.safetensors"],
        "there is no folder no/fold",
    ),
    "fit of nothing": (lambda d: ["--output", "m.safetensors"], "give --prompt TEXT"),
}


@pytest.mark.parametrize("case", WORDS)
def test_bad_input_is_refused_with_code_2_and_nothing_loaded_or_written(
    disk: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(making, "load_reflectable", None)
    monkeypatch.setattr(making, "load_vae", None)
    words, said = WORDS[case]
    out, fit = tmp_path / "out", case.startswith("fit ")
    (disk / "folder.safetensors").mkdir(exist_ok=True)
    start = (
        ["fit", *pair(disk), *QUICK[:4]] if fit else [*pair(disk), *QUICK, "--prompt", "a cat", "--output", str(out)]
    )
    assert main([*start, *words(disk)]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not out.exists()


def test_a_pair_of_ones_own_needs_both_sides_prompts_and_known_sizes(disk: Path) -> None:
    with pytest.raises(UserError, match="--weak must be given"):
        planned_of(strong=str(disk / "flux"))
    with pytest.raises(UserError, match="give --prompt TEXT"):
        planned(disk, prompts=())
    with pytest.raises(UserError, match="give --height and --width, such as 1024"):
        planned(disk, strong="owner/name", height=None)
    assert planned(disk, height=None).height == 256  # a Flux pipeline's 128 cells of 2 pixels
    with pytest.raises(UserError, match=r"guidance is 0\.5; a StableDiffusionXLPipeline samples with 1"):
        planned(disk, strong=str(disk / "sdxl"), guidance=0.5)
    with pytest.raises(UserError, match="--true-cfg is for Flux"):
        planned(disk, strong=str(disk / "sdxl"), true_cfg=2.0, negative_prompt="x")
    with pytest.raises(UserError, match="leave the method weak out"):
        planned(disk, strong=str(disk / "video"), video=True, methods=("weak",))


def test_a_map_of_other_vaes_is_refused_before_the_networks_are_loaded(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(making, "load_reflectable", None)
    words = [*pair(disk, "sd15", "sdxl"), *QUICK, "--prompt", "a cat", "--noise-map", str(disk / "map.safetensors")]
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    assert "the noise map was fitted for other VAEs" in capsys.readouterr().err


def test_one_space_needs_no_map_to_be_fitted(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--height", "16", "--width", "16", "--pictures", str(disk / "pictures"), "--output", "m.safetensors"]
    assert main(["fit", *pair(disk, "flux", "flux-2"), *words]) == 2
    assert "share one latent space, so no noise map is needed" in capsys.readouterr().err
