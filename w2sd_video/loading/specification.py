"""Whether a strong side, a weak side and a motion adapter fit each other, judged by their configs alone (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2sd_video.errors import UserError
from w2sd_video.loading.checkpoints import (
    HUB_ID,
    LDM_TEXT,
    LDM_UNET,
    LDM_VAE,
    Checkpoint,
    describe_checkpoint,
    describe_motion_adapter,
    read_json,
)

Config = Mapping[str, Any]
UNET_KEYS = ("in_channels", "cross_attention_dim", "projection_class_embeddings_input_dim", "addition_time_embed_dim")
# What diffusers takes where a config is silent.
DEFAULTS = {"prediction_type": "epsilon", "scaling_factor": 0.18215, "latent_channels": 4}


@dataclass(frozen=True)
class PairSpecification:
    """A pair that passed every check its files allow.

    `strong_config` and `weak_config` are where a single file's side takes its configs and tokenizers from: a folder or
    a hub id, None for a side that is a folder itself. `motion_adapter` is None when a side brings the motion modules.
    """

    strong: Checkpoint
    weak: Checkpoint
    motion_adapter: Checkpoint | None
    strong_config: str | None
    weak_config: str | None
    allow_pickle: bool = False
    num_frames: int | None = None

    @property
    def needs_network(self) -> bool:
        """Whether loading goes to the hub: only ever because a hub id was given."""
        parts = (self.strong, self.weak, self.motion_adapter)
        configs = (self.strong_config, self.weak_config)
        return any(part is not None and part.kind == "hub" for part in parts) or any(
            config is not None and not Path(config).is_dir() for config in configs
        )


@dataclass(frozen=True)
class Configs:
    """The configs of a pair, None where unknown (not fetched yet) or absent (a folder that holds a network only)."""

    strong_unet: Config | None = None
    weak_unet: Config | None = None
    motion_adapter: Config | None = None
    strong_vae: Config | None = None
    weak_vae: Config | None = None
    strong_scheduler: Config | None = None
    weak_scheduler: Config | None = None


def check_pair_specification(
    strong: str,
    weak: str,
    motion_adapter: str | None = None,
    *,
    config: str | None = None,
    allow_pickle: bool = False,
    num_frames: int | None = None,
) -> PairSpecification:
    """Returns the pair that `load_pair` would load from the same arguments, after every check that needs no weights.

    Hub ids are taken as given: what they hold is checked when they are loaded.

    Raises:
        UserError: something does not exist, is damaged, or does not fit the rest.
    """
    sides = (
        describe_checkpoint(strong, "strong", allow_pickle=allow_pickle),
        describe_checkpoint(weak, "weak", allow_pickle=allow_pickle),
    )
    adapter = None if motion_adapter is None else describe_motion_adapter(motion_adapter, allow_pickle=allow_pickle)
    own = sides[0].path / "motion_adapter" if sides[0].kind == "pipeline" and sides[0].path else None
    bringing = [side for side in sides if (side.config("unet") or {}).get("_class_name") == "UNetMotionModel"]
    if adapter is None and not bringing and own is not None and own.is_dir():
        adapter = describe_motion_adapter(str(own), allow_pickle=allow_pickle)
    if adapter is None and not bringing and all(side.kind != "hub" for side in sides):
        raise UserError(
            f"neither {strong} nor {weak} holds motion modules; give a motion adapter, "
            "such as guoyww/animatediff-motion-adapter-sdxl-beta"
        )
    if motion_adapter is not None and len(bringing) == 2:
        raise UserError(
            f"both sides hold motion modules of their own, so the motion adapter {motion_adapter} would go unused; "
            "leave it out"
        )
    for_strong, for_weak = (_config_for(side, sides[1 - index], config) for index, side in enumerate(sides))
    specification = PairSpecification(*sides, adapter, for_strong, for_weak, allow_pickle, num_frames)
    check_configs(local_configs(specification), strong, weak, num_frames)
    _check_text_encoders(specification)
    return specification


def _config_for(side: Checkpoint, other: Checkpoint, config: str | None) -> str | None:
    if side.kind != "file":
        return None
    if config is None and other.kind in ("pipeline", "hub"):
        return str(other.path) if other.path else other.given
    if config is None:
        raise UserError(
            f"{side.given} is a single file and needs the configs and tokenizers of its family; "
            "give a config folder (SDXL's diffusers folder; its weights are not needed), or SDXL's hub id"
        )
    folder = Path(config).expanduser()
    if folder.is_dir():
        needed = ("model_index.json", "unet/config.json", "vae/config.json", "tokenizer", "tokenizer_2")
        missing = [name for name in needed if not (folder / name).exists()]
        if missing:
            raise UserError(
                f"the config folder {config} lacks {', '.join(missing)}; give a whole SDXL diffusers folder"
            )
        return str(folder)
    if HUB_ID.fullmatch(config) and not folder.parent.is_dir():
        return config
    raise UserError(f"the config folder {config} does not exist; give a folder or a hub id")


def _side_config(side: Checkpoint, config: str | None, part: str) -> Config | None:
    """A side's config of `part`; a single file's comes from its config folder, once its header agrees with it."""
    if side.kind != "file":
        return side.config(part)
    if config is None or not Path(config).is_dir():
        return None
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    file = Path(config) / part / name
    found = read_json(file) if file.is_file() else None
    if found is None or side.header is None:
        return found
    if part == "unet":
        _check_shapes(side, found, config)
        # The config may be that of a motion pipeline; the file itself is always a 2-D UNet.
        return {**found, "_class_name": "UNet2DConditionModel"}
    if part == "scheduler" and "v_pred" in side.header:
        return {**found, "prediction_type": "v_prediction"}
    return found if part != "vae" or any(key.startswith(LDM_VAE) for key in side.header) else None


def _check_shapes(side: Checkpoint, unet: Config, config: str) -> None:
    assert side.header is not None
    first = side.header[LDM_UNET + "input_blocks.0.0.weight"].shape
    wanted = (unet["block_out_channels"][0], unet["in_channels"])
    if first[:2] != wanted:
        raise UserError(
            f"{side.given} starts with a {first[0]}-channel layer over {first[1]} inputs, the config folder {config} "
            f"describes one of {wanted[0]} over {wanted[1]}; give the config folder of the file's own family"
        )


def local_configs(specification: PairSpecification) -> Configs:
    """The configs that are on this machine."""
    strong, weak = specification.strong, specification.weak
    adapter = specification.motion_adapter
    adapter_config = read_json(adapter.path / "config.json") if adapter is not None and adapter.path else None
    return Configs(
        **{
            f"{role}_{part}": _side_config(side, config, part)
            for role, side, config in (
                ("strong", strong, specification.strong_config),
                ("weak", weak, specification.weak_config),
            )
            for part in ("unet", "vae", "scheduler")
        },
        motion_adapter=adapter_config,
    )


def _check_text_encoders(specification: PairSpecification) -> None:
    def may_have(side: Checkpoint) -> bool:
        if side.kind == "file":
            return side.header is None or all(key in side.header for key in LDM_TEXT)
        return side.kind == "hub" or side.part_folder("text_encoder_2") is not None

    if not may_have(specification.strong) and not may_have(specification.weak):
        raise UserError(
            f"neither {specification.strong.given} nor {specification.weak.given} holds SDXL's two text encoders; "
            "give one side as a whole diffusers folder or a whole single file"
        )


def check_configs(configs: Configs, strong: str, weak: str, num_frames: int | None = None) -> None:
    """Raises `UserError` for configs that do not make a pair; `strong` and `weak` name the sides in the messages."""
    for name, unet in ((strong, configs.strong_unet), (weak, configs.weak_unet)):
        if unet is None:
            continue
        _check_unet(unet, name)
        if unet.get("_class_name") == "UNetMotionModel":
            _check_frames(unet, name, num_frames)
        elif configs.motion_adapter is not None:
            check_adapter_fits(configs.motion_adapter, unet, name)
    if configs.motion_adapter is not None:
        _check_frames(configs.motion_adapter, "the motion adapter", num_frames)
    for part, ours, theirs, keys in (
        ("UNet", configs.strong_unet, configs.weak_unet, UNET_KEYS),
        ("VAE", configs.strong_vae, configs.weak_vae, ("latent_channels", "scaling_factor", "shift_factor")),
        ("scheduler", configs.strong_scheduler, configs.weak_scheduler, ("prediction_type",)),
    ):
        for key in keys if ours is not None and theirs is not None else ():
            assert ours is not None and theirs is not None
            got, other = (side.get(key, DEFAULTS.get(key)) for side in (ours, theirs))
            if got != other:
                raise UserError(
                    f"the sides do not share a latent space and prediction: {part} {key} is {got} in {strong} "
                    f"and {other} in {weak}; give two checkpoints of one family"
                )
    vae, unet = configs.strong_vae or configs.weak_vae, configs.strong_unet
    if vae is not None and unet is not None and vae.get("latent_channels") != unet["in_channels"]:
        raise UserError(
            f"the UNet of {strong} takes {unet['in_channels']} latent channels and the VAE makes "
            f"{vae.get('latent_channels')}; they must be equal"
        )


def _check_unet(unet: Config, name: str) -> None:
    if unet.get("in_channels") != unet.get("out_channels"):
        raise UserError(
            f"the UNet of {name} takes {unet.get('in_channels')} channels and returns {unet.get('out_channels')}; "
            "they must be equal (inpainting and editing checkpoints take more: give a text-to-image one)"
        )
    if unet.get("addition_embed_type") != "text_time":
        raise UserError(
            f"the UNet of {name} has addition_embed_type {unet.get('addition_embed_type')!r}, as SD1.5 and SD2 do; "
            "allowed: 'text_time' (SDXL)"
        )


def _check_frames(config: Config, name: str, num_frames: int | None) -> None:
    longest = config.get("motion_max_seq_length", 32)
    if num_frames is not None and num_frames > longest:
        raise UserError(f"{num_frames} frames asked for; the motion modules of {name} allow at most {longest}")


def check_adapter_fits(adapter: Config, unet: Config, name: str) -> None:
    """Raises `UserError` unless the motion modules fit the 2-D UNet called `name`."""
    if adapter.get("conv_in_channels"):
        raise UserError("the motion adapter replaces the UNet's first layer (PIA); give a plain AnimateDiff-SDXL one")
    blocks = len(unet["block_out_channels"])
    for theirs, ours in (
        ("block_out_channels", "block_out_channels"),
        ("motion_layers_per_block", "layers_per_block"),
    ):
        got, allowed = (_per_block(config.get(key), blocks) for config, key in ((adapter, theirs), (unet, ours)))
        if got != allowed:
            raise UserError(
                f"the motion adapter does not fit the UNet of {name}: {theirs} is {got}, the UNet has {allowed}; "
                "SD1.5 adapters do not fit SDXL, give one made for this family"
            )


def _per_block(value: Any, blocks: int) -> list[Any]:
    return [value] * blocks if isinstance(value, int) else list(value or ())
