"""Weights read one tensor at a time: the same networks as the libraries load, less memory, prompts encoded before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.measuring import LiveBytes
from diffusers import DiffusionPipeline, FluxTransformer2DModel, UNet2DConditionModel
from safetensors.torch import save_file

from tests.support import layouts, tiny, tiny_families
from tests.support.disk_pairs import sdxl, write_checkpoints
from w2sd_video.loading import parts
from w2sd_video.loading.animatediff import tensors_of
from w2sd_video.loading.describe import Description, describe
from w2sd_video.loading.pair_description import PairDescription, describe_pair
from w2sd_video.loading.pairs import load_pair
from w2sd_video.loading.parts import Source
from w2sd_video.loading.pipelines import load_pipeline
from w2sd_video.loading.placement import kept_in_fp8, read_to
from w2sd_video.loading.sharing import unique_bytes
from w2sd_video.loading.streaming import fill, read_tensors, without_weights
from w2sd_video.runs.progress import TerminalProgress

BF16 = torch.bfloat16


def test_tensors_are_read_as_they_were_written(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    written = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in kinds}
    written |= {"number": torch.tensor(4.5), "nothing": torch.zeros(0, 3), "fp8": torch.ones(3).to(torch.float8_e4m3fn)}
    save_file(written, tmp_path / "all.safetensors", metadata={"format": "pt"})
    found = dict(read_tensors([tmp_path / "all.safetensors"]))
    assert found.keys() == written.keys()
    for name, tensor in written.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name].float(), tensor.float()), name
    assert [*dict(read_tensors([tmp_path / "all.safetensors"], {"number": "n"}))] == ["n"]


@pytest.mark.parametrize("make", [tiny.sdxl, tiny.flux, tiny.wan, tiny_families.sd3, tiny.animatediff_sdxl])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_folder_is_loaded_as_diffusers_loads_it(
    make: Callable[..., Any], dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(1).save_pretrained(tmp_path)
    wanted = DiffusionPipeline.from_pretrained(tmp_path, dtype=dtype)
    video = "AnimateDiff" in type(wanted).__name__ or "Wan" in type(wanted).__name__
    for kind in {type(part) for part in wanted.components.values() if isinstance(part, torch.nn.Module)}:
        monkeypatch.setattr(kind, "from_pretrained", None)  # the libraries are not asked
    found = load_pipeline(str(tmp_path), role="strong", dtype=dtype, video=video, quiet=True)
    for part in ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        if getattr(wanted, part, None) is None or (part == "vae" and dtype == torch.float16):
            continue  # such a VAE is kept in float32
        ours, theirs = tensors_of(getattr(found, part)), tensors_of(getattr(wanted, part))
        assert ours.keys() == theirs.keys()
        assert [name for name in theirs if ours[name].dtype != theirs[name].dtype] == []
        assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
        assert not getattr(found, part).training


def test_single_files_are_read_tensor_by_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_checkpoints(tmp_path)
    tiny.flux(2).save_pretrained(tmp_path / "flux")
    save_file(layouts.flux_to_original(tiny.flux(1).transformer), tmp_path / "flux.safetensors")
    for kind in (UNet2DConditionModel, FluxTransformer2DModel):
        monkeypatch.setattr(kind, "from_single_file", None)  # diffusers' own is not asked
    converted = "diffusers.loaders.single_file.create_diffusers_clip_model_from_ldm"
    monkeypatch.setattr(converted, None)
    source = Source(describe(files["weak.safetensors"], "weak", config=files["config"]), torch.float16)
    file, folder = str(tmp_path / "flux.safetensors"), str(tmp_path / "flux")
    flux = Source(describe(file, "weak", config=folder), torch.float16).load(FluxTransformer2DModel, "transformer")
    pipe, texts = sdxl(2), source.text_components("sdxl")
    for found, wanted in (
        (source.load(UNet2DConditionModel, "unet"), pipe.unet),
        (texts["text_encoder"], pipe.text_encoder),
        (texts["text_encoder_2"], pipe.text_encoder_2),
        (flux, tiny.flux(1).transformer),
    ):
        ours, theirs = tensors_of(found), tensors_of(wanted.half())
        assert ours.keys() == theirs.keys()
        assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_a_pair_of_equal_folders_never_holds_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.sdxl(1).save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = (Description(str(tmp_path / name), "folder", tmp_path / name) for name in ("one", "two"))
    first = Source(one, torch.float32).load(UNet2DConditionModel, "unet")
    second = Source(two, torch.float32).load(UNet2DConditionModel, "unet", other=first)
    ours, theirs = tensors_of(first), tensors_of(second)
    assert all(theirs[name] is ours[name] for name in ours)


def test_prompts_are_encoded_while_the_networks_wait_for_their_weights(tmp_path: Path) -> None:
    for seed in (1, 2):
        tiny.sdxl(seed).save_pretrained(tmp_path / str(seed))
    sides = [Description(str(tmp_path / name), "folder", tmp_path / name) for name in "12"]
    pair, waiting, read = PairDescription(*sides, None), [], []  # type: ignore[var-annotated]
    pipes = load_pair(
        pair, dtype=torch.float32, video=False, waiting=waiting, told=lambda size, part: read.append(size)
    )
    networks = [pipe.unet for pipe in pipes.values()]
    assert all(parameter.is_meta for network in networks for parameter in network.parameters())
    assert [pipe.encode_prompt("x", device="cpu")[0].isfinite().all() for pipe in pipes.values()]
    assert len(waiting) == 2
    before = sum(read)
    for read_one in waiting:
        read_one()
    assert sum(read) - before == sum(tensor.nbytes for net in networks for tensor in net.parameters())
    for seed, network in zip((1, 2), networks, strict=True):
        wanted = tiny.sdxl(seed).unet.state_dict()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in network.state_dict().items())
    plain = load_pair(pair, dtype=torch.float32, video=False)
    assert unique_bytes(*networks) == unique_bytes(*(pipe.unet for pipe in plain.values()))


def test_a_pair_of_videos_waits_for_its_weights_with_its_motion_modules(tmp_path: Path) -> None:
    files = write_checkpoints(tmp_path)
    given = (files["strong.safetensors"], files["weak"], files["motion"])
    pair, waiting = describe_pair(*given, config=files["weak"]), []  # type: ignore[var-annotated]
    pipes = load_pair(pair, dtype=torch.float32, waiting=waiting)
    for read_one in waiting:
        read_one()
    plain = load_pair(pair, dtype=torch.float32)
    for role, pipe in pipes.items():
        wanted = tensors_of(plain[role].unet)
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in tensors_of(pipe.unet).items())
    networks = [[pipe.unet for pipe in each.values()] for each in (pipes, plain)]
    assert unique_bytes(*networks[0]) == unique_bytes(*networks[1])


def test_networks_are_read_into_fp8_as_they_are_cast_to_it_later(tmp_path: Path) -> None:
    for seed in (1, 2):
        tiny.sdxl(seed).save_pretrained(tmp_path / str(seed))
    pair = PairDescription(*(Description(str(tmp_path / name), "folder", tmp_path / name) for name in "12"), None)
    waiting: list[Callable[[], None]] = []
    networks = [[pipe.unet for pipe in load_pair(pair, dtype=BF16, video=False, waiting=waiting).values()]]
    networks.append([pipe.unet for pipe in load_pair(pair, dtype=BF16, video=False).values()])
    for both in networks:
        kept_in_fp8(both)
    for read in waiting:
        read()
    found, wanted = ([tensors_of(network) for network in both] for both in networks)
    assert {tensor.dtype for tensor in found[0].values()} == {BF16, torch.float8_e4m3fn}
    for ours, theirs in zip(found, wanted, strict=True):
        assert [name for name in theirs if ours[name].dtype != theirs[name].dtype] == []
        assert [name for name in theirs if not torch.equal(ours[name].float(), theirs[name].float())] == []


def test_what_a_device_takes_is_never_on_the_host_but_for_one_tensor(tmp_path: Path) -> None:
    network = tiny.sdxl_unet()
    save = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    largest = max(tensor.nbytes for tensor in save.values())
    save_file(save, tmp_path / "unet.safetensors")
    empty = without_weights(UNet2DConditionModel, network.config, BF16)
    tensors = read_tensors([tmp_path / "unet.safetensors"], reused=True)
    with LiveBytes("cpu") as live:  # "meta" stands in for the device
        fill(empty, tensors, BF16, device="meta")
    assert largest <= live.peak < 1.1 * largest
    assert {tensor.dtype for tensor in empty.parameters()} == {BF16}
    with LiveBytes("cpu") as live:
        plain = {name: tensor.clone() for name, tensor in save.items()}
    assert live.peak >= sum(tensor.nbytes for tensor in plain.values()), "the count sees what is on the host"


@pytest.mark.parametrize(
    ("memory", "networks", "others"),
    [("resident", ["meta", "meta"], ["meta"]), ("weak-offload", ["cpu", "meta"], ["cpu"]), ("group", ["cpu"], ["cpu"])],
)
def test_a_memory_plan_says_where_tensors_are_read_to(
    memory: str, networks: list[str], others: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2):
        tiny.sdxl(seed).save_pretrained(tmp_path / str(seed))
    pair = PairDescription(*(Description(str(tmp_path / name), "folder", tmp_path / name) for name in "12"), None)
    seen: list[tuple[str, str]] = []

    def filled(module: Any, tensors: Any, dtype: Any, *, device: str, **settings: Any) -> None:
        seen.append((type(module).__name__, device))
        fill(module, tensors, dtype, **settings)

    monkeypatch.setattr(parts, "fill", filled)
    waiting: list[Callable[[], None]] = []
    load_pair(pair, dtype=BF16, video=False, waiting=waiting, places=read_to("meta", memory))
    for read in waiting:
        read()
    assert sorted({device for name, device in seen if not name.startswith("UNet")}) == others
    assert sorted(device for name, device in seen if name.startswith("UNet"))[-len(networks) :] == networks
    assert len(seen) == 8


@pytest.mark.parametrize(("scale", "said"), [(10**9, ["loaded 2.0 of 4.0 GB (unet), 18 s left"]), (10**7, [])])
def test_loading_says_how_far_it_is_without_a_terminal(
    scale: int, said: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = TerminalProgress()
    monkeypatch.setattr("w2sd_video.runs.progress.time.monotonic", iter([0.0, 1.0, 10.0, 11.0]).__next__)
    progress.loading("a over b", 4 * scale)
    for _ in range(3):
        progress.read(scale, "unet")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"loading {4 * scale / 1e9:g} GB of weights: a over b", *said]
