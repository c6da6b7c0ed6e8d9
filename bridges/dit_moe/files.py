"""What a DiT-MoE checkpoint is, as far as its files tell without loading its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridges.dit_moe.configurations import count_parameters
from bridges.dit_moe.demo import WEIGHTS
from bridges.dit_moe.layout import config_of
from w2sd_video.errors import UserError, malformed
from w2sd_video.loading.describe import Weights, read_index
from w2sd_video.loading.files import (
    HUB_ID,
    PICKLES,
    check_vae_folder,
    check_weights,
    read_json,
    read_safetensors_header,
    weight_files,
)

EXPERTS_PER_TOKEN = 2  # of every published network; no shape tells it
VAE_FACTOR = 8  # of the published networks' VAE, sd-vae-ft-mse


@dataclass(frozen=True)
class NetworkFiles:
    """`kind` is "pipeline", "network" or "file"; `config` is the network's, `id2label` a pipeline's class names.

    `has_vae`: a pipeline that brings its own.
    """

    given: str
    kind: str
    config: Mapping[str, Any]
    id2label: Mapping[int, str] = field(default_factory=dict)
    has_vae: bool = False

    @property
    def experts_per_token(self) -> int:
        return self.config.get("num_experts_per_tok", EXPERTS_PER_TOKEN)

    def weights(self, vae: str | None) -> tuple[Weights, ...]:
        """Returns what is read of it, as far as headers tell, with `vae` in place of its own VAE."""
        path = Path(self.given).expanduser()
        if self.kind == "file":
            network = (Weights((path,)),) if path.suffix == ".safetensors" else ()
        else:
            network = (Weights(tuple(weight_files(path / "transformer" if self.kind == "pipeline" else path))),)
        folder = path / "vae" if vae is None else Path(vae).expanduser()
        return *network, *((Weights(tuple(weight_files(folder))),) if folder.is_dir() else ())


def describe_checkpoint(given: str | None, *, allow_pickle: bool) -> NetworkFiles:
    """Returns what is known of a checkpoint: a published file, a converted folder, or a pipeline's; None is the
    bundled one.

    Raises:
        UserError: it is not there, not whole, a pickle that is not allowed, or no DiT-MoE.
    """
    if given is None and not (WEIGHTS / "model_index.json").is_file():
        raise UserError(
            "the bundled digits network is not there; give --checkpoint, or make it: scripts/train_digits.py"
        )
    given = str(WEIGHTS) if given is None else given
    path = Path(given).expanduser()
    if path.is_dir():
        return _folder(given, path)
    if not path.is_file():
        hint = "; a hub id is not taken: download the file and give its path" if HUB_ID.fullmatch(given) else ""
        raise UserError(f"the checkpoint {given} does not exist; give a file (.pt, .safetensors) or a folder{hint}")
    return NetworkFiles(given, "file", config_of(_shapes(path, allow_pickle), given))


def _folder(given: str, path: Path) -> NetworkFiles:
    index = read_index(path / "model_index.json") if (path / "model_index.json").is_file() else None
    network = path if index is None else path / "transformer"
    config = read_json(network / "config.json")
    if (kind := config.get("_class_name")) != "DiTMoE":
        raise UserError(f"{network} holds a {kind}; give a DiTMoE: a published file, or a folder of the conversion")
    with malformed(f"{network / 'config.json'}", "convert the checkpoint again"):
        count_parameters(config)
    check_weights(network, "the network's folder")
    if index is None:
        return NetworkFiles(given, "network", config)
    has_vae = (index.get("vae") or [None])[0] is not None
    with malformed(f"id2label in {path / 'model_index.json'}", 'write {"0": "name, synonym", ...}, or leave it out'):
        labels = {int(key): f"{names}" for key, names in (index.get("id2label") or {}).items()}
    return NetworkFiles(given, "pipeline", config, labels, has_vae)


def _shapes(path: Path, allow_pickle: bool) -> dict[str, tuple[int, ...]]:
    if path.suffix == ".safetensors":
        return {name: entry.shape for name, entry in read_safetensors_header(path).items()}
    if path.suffix not in PICKLES:
        raise UserError(f"the checkpoint {path} is a {path.suffix!r} file; give a .pt or a .safetensors file")
    from bridges.dit_moe.checkpoints import read_state  # only torch reads its own files

    return {key: tuple(tensor.shape) for key, tensor in read_state(path, allow_pickle=allow_pickle).items()}


def vae_factor(files: NetworkFiles, vae: str | None) -> int:
    """Returns how many pixels a latent's cell has on each side.

    Raises:
        UserError: no VAE, none at that place, or one for other latents.
    """
    if vae is None and not files.has_vae:
        raise UserError(
            f"{files.given} brings no VAE; give --vae: a folder or a hub id (the published networks' is "
            "stabilityai/sd-vae-ft-mse)"
        )
    if vae is not None:
        check_vae_folder(vae, "the VAE", ("AutoencoderKL",))
    folder = Path(files.given).expanduser() / "vae" if vae is None else Path(vae).expanduser()
    if not folder.is_dir():
        return VAE_FACTOR
    config = read_json(folder / "config.json")
    channels = config.get("latent_channels", 4)
    if channels != files.config["in_channels"]:
        raise UserError(
            f"the VAE {folder} has latents of {channels} channels, the network takes {files.config['in_channels']}; "
            "give the VAE that the network was trained with"
        )
    return 2 ** (len(config.get("block_out_channels", (0,))) - 1)
