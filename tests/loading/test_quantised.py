"""Quantised checkpoints: read by their headers, refused by name where a package or a GPU is missing, run where not.

What needs a package is tested with it where it is installed, and up to its loader where it is not.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils

from tests.support import disk_pairs, tiny
from tests.support.layouts import flux_to_original
from w2sd_video import reflected
from w2sd_video.errors import UserError
from w2sd_video.loading import quantised_files
from w2sd_video.loading.describe import describe
from w2sd_video.loading.parts import Source, check_device
from w2sd_video.loading.pipelines import load_pipeline
from w2sd_video.loading.placement import place
from w2sd_video.loading.quantised_files import check_package, read_gguf_header
from w2sd_video.loading.sizes import sizes_of

Q8_0 = 8


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf_bytes(tensors: Mapping[str, torch.Tensor], kind: int = 0, *, version: int = 3) -> bytes:
    """A GGUF file: some metadata of every shape, float32 tensors (whatever type they are said to be), 64-aligned."""
    meta = text("general.alignment") + struct.pack("<II", 4, 64)
    meta += text("general.name") + struct.pack("<I", 8) + text("flux")
    meta += text("a.list") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    meta += text("b.list") + struct.pack("<IIQ3f", 9, 6, 3, 1.0, 2.0, 3.0)
    infos, data = b"", b""
    for name, tensor in tensors.items():
        dims = tuple(reversed(tensor.shape))
        infos += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += tensor.float().numpy().tobytes()
        data += b"\0" * (-len(data) % 64)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), 4) + meta + infos
    return head + b"\0" * (-len(head) % 64) + data


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quantised")
    tiny.flux(1).save_pretrained(root / "flux")
    (root / "flux.gguf").write_bytes(gguf_bytes(flux_to_original(tiny.flux(1).transformer)))
    return root


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every package were there, up to its use."""
    monkeypatch.setattr(quantised_files, "find_spec", lambda name: name)


def test_a_gguf_header_has_names_and_shapes_and_is_checked_against_the_file(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(6, 5), "b": torch.randn(3, 2, 4, 32), "c": torch.randn(64)}
    file, whole = tmp_path / "x.gguf", gguf_bytes(tensors)
    file.write_bytes(whole)
    assert {name: info.shape for name, info in read_gguf_header(file).items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    assert {info.dtype for info in read_gguf_header(file).values()} == {"F32"}
    file.write_bytes(gguf_bytes({"w": torch.randn(4, 64)}, Q8_0))
    assert read_gguf_header(file)["w"].dtype == "Q8_0"
    for data, said in (
        (whole[:-100], r"cut short.*the header describes"),
        (whole[:40], "cut short"),
        (b"PK" + whole, "does not begin with GGUF"),
        (gguf_bytes(tensors, version=1), "version 1"),
        (gguf_bytes(tensors, 23), r"holds a\.weight as type 23 of GGUF, which is not read; allowed: F32"),
    ):
        file.write_bytes(data)
        with pytest.raises(UserError, match=said):
            read_gguf_header(file)


def test_a_missing_package_or_gpu_is_named_before_anything_is_loaded(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised_files, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"flux\.gguf holds weights quantised by gguf; pip install gguf, or"):
        describe(str(disk / "flux.gguf"), "weak", config=str(disk / "flux"))
    for method, package in (
        ("quanto", "optimum-quanto"),
        ("torchao", "torchao"),
        ("bitsandbytes_4bit", "bitsandbytes"),
    ):
        with pytest.raises(UserError, match=f"quantised by {method}; pip install {package}"):
            check_package(method, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"on a GPU alone, and there is none.*--weak-precision nf4"):
        check_device({"quantization_config": {"quant_method": "bitsandbytes"}}, "x")
    check_device({"quantization_config": {"quant_method": "torchao"}}, "x")
    check_device({}, "x")


@pytest.mark.usefixtures("installed")
def test_a_gguf_file_is_described_as_its_family_and_loaded_by_its_own_config(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to diffusers' loader, in whose place a stand-in looks at what it is given."""
    found = describe(str(disk / "flux.gguf"), "weak", config=str(disk / "flux"))
    assert (found.family, found.class_name) == ("flux", "FluxPipeline")
    assert found.lacking == ("vae", "text_encoder", "text_encoder_2")
    assert found.sizes["transformer"] == sum(p.numel() for p in tiny.flux(1).transformer.parameters())
    assert sizes_of(found).packed == (disk / "flux.gguf").stat().st_size  # it stays as it is in memory
    weights = found.weights("transformer")
    assert weights is not None and weights.nbytes == sizes_of(found).packed  # what a bar of loading counts to
    given: dict[str, Any] = {}

    def load(path: str, **settings: Any) -> Any:
        given.update(settings, path=path)
        return tiny.flux(1).transformer

    monkeypatch.setattr(diffusers.FluxTransformer2DModel, "from_single_file", load)
    Source(found, torch.bfloat16).load(diffusers.FluxTransformer2DModel, "transformer")
    config = given["quantization_config"]
    assert isinstance(config, diffusers.GGUFQuantizationConfig) and config.compute_dtype == torch.bfloat16
    assert given["path"].endswith("flux.gguf") and given["config"] == str(disk / "flux")
    with pytest.raises(UserError, match="is of the family of FluxPipeline"):
        describe(str(disk / "flux.gguf"), "weak", config=str(sdxl(disk)))


def sdxl(disk: Path) -> Path:
    if not (disk / "sdxl").exists():
        disk_pairs.sdxl(1).save_pretrained(disk / "sdxl")
    return disk / "sdxl"


# -- with the packages ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("package", ["torchao", "optimum.quanto"])
@torch.no_grad()
def test_a_quantised_folder_is_either_side_of_a_pair(package: str, disk: Path) -> None:
    pytest.importorskip(package)
    plain, folder = sdxl(disk), disk / package
    shutil.copytree(plain, folder, ignore=shutil.ignore_patterns("unet"))
    if package == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        config: Any = diffusers.TorchAoConfig(Int8WeightOnlyConfig())
    else:
        config = diffusers.QuantoConfig(weights_dtype="int8")
    made = diffusers.UNet2DConditionModel.from_pretrained(plain / "unet", quantization_config=config)
    made.save_pretrained(folder / "unet")
    pipe = disk_pairs.sdxl(1)
    weak = load_pipeline(str(folder), role="weak", dtype=torch.float32, quiet=True)
    place(pipe, weak, "cpu")
    assert weak.vae.decoder.conv_in.weight is pipe.vae.decoder.conv_in.weight, "what is not quantised is shared"
    reflects_with(pipe, weak, tiny.IMAGE_CALL)


@pytest.mark.slow
@torch.no_grad()
def test_a_gguf_file_is_either_side_of_a_pair(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = pytest.importorskip("gguf")
    source = inspect.getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers)
    scope = dict(vars(single_file_utils))
    exec(source.replace("inner_dim = 3072", "inner_dim = 32"), scope)  # diffusers knows one width of Flux
    known = importlib.import_module("diffusers.loaders.single_file_model").SINGLE_FILE_LOADABLE_CLASSES
    entry = {
        **known["FluxTransformer2DModel"],
        "checkpoint_mapping_fn": scope["convert_flux_transformer_checkpoint_to_diffusers"],
    }
    monkeypatch.setitem(known, "FluxTransformer2DModel", entry)
    writer = gguf.GGUFWriter(str(tmp_path / "flux.gguf"), "flux")
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in flux_to_original(tiny.flux(1).transformer).items():
        values = tensor.float().numpy()
        packed = values.ndim == 2 and values.shape[1] % 32 == 0
        writer.add_tensor(
            name, gguf.quants.quantize(values, kind) if packed else values, raw_dtype=kind if packed else None
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    weak = load_pipeline(
        str(tmp_path / "flux.gguf"), role="weak", config=str(disk / "flux"), dtype=torch.float32, quiet=True
    )
    assert any(type(parameter).__name__ == "GGUFParameter" for parameter in weak.transformer.parameters())
    reflects_with(tiny.flux(1), weak, tiny.FLUX_CALL)


def reflects_with(pipe: Any, other: Any, arguments: dict[str, Any]) -> None:
    """Both roles: what a network rounded to 8 bits samples is near, and its gap is small and not nothing."""
    settings = {**arguments, "num_inference_steps": 3, "output_type": "latent"}

    def call(one: Any) -> torch.Tensor:
        return torch.as_tensor(one("a cat", **settings, generator=tiny.generator())[0])

    strong, weak = call(pipe), call(other)
    assert 0 < (strong - weak).abs().max() < 0.05 * strong.abs().max()
    for one, two in ((pipe, other), (other, pipe)):
        network = two.unet if hasattr(two, "unet") else two.transformer
        with reflected(one, network, num_reflections=2, mode="fused") as run:
            moved = call(one)
        assert min(run.gaps) > 0 and (moved - strong).abs().max() < 0.2 * strong.abs().max()
