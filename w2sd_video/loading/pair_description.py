"""Whether two sides and their motion modules make a pair of AnimateDiff on SDXL, by their files alone (no torch).

The two may lend each other what one lacks: configs of a single file, VAE, text encoders, motion modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2sd_video.errors import UserError
from w2sd_video.latents import noise_levels
from w2sd_video.latents.spaces import LatentSpace, compare_spaces
from w2sd_video.loading.describe import (
    WEIGHTED,
    Description,
    Weights,
    check_frames,
    describe,
    describe_file,
    describe_motion_adapter,
)
from w2sd_video.loading.files import is_hub_id

SAME_IN_UNETS = (
    *("in_channels", "cross_attention_dim", "projection_class_embeddings_input_dim"),
    "addition_time_embed_dim",
)
Config = Mapping[str, Any]
PartOf = Callable[[str, str], "Config | None"]  # of a role and a part: its config, where there is one


@dataclass(frozen=True)
class PairDescription:
    """Both sides, a weak one of None being the strong one's network; `motion_adapter` is None where a side brings
    motion modules. `put_together`: they are videos of SDXL, and passed every check of `describe_pair`.
    """

    strong: Description
    weak: Description | None
    motion_adapter: Description | None
    allow_pickle: bool = False
    num_frames: int | None = None
    put_together: bool = False

    @property
    def needs_network(self) -> bool:
        return any(each is not None and each.needs_network for each in (self.strong, self.weak, self.motion_adapter))

    @property
    def whole(self) -> Description:
        """The strong side, or of one network alone the side that has the rest."""
        return self.weak if self.strong.kind == "network" and self.weak is not None else self.strong

    def part(self, role: str, name: str) -> dict[str, Any] | None:
        """The config of a part that the "strong" or "weak" side, or the "motion" adapter, itself has here."""
        if role == "motion":
            return None if self.motion_adapter is None else self.motion_adapter.part(name)
        side: Description = getattr(self, role)
        return None if name in side.lacking else side.part(name)


def weights_of(*sides: Description | None) -> tuple[Weights, ...]:
    """Returns what is read of models, as far as it is files on this machine."""
    found: list[Weights] = []
    for side in (side for side in sides if side is not None):
        moving = (side.part("unet") or {}).get("_class_name") == "UNetMotionModel"  # has its motion modules
        parts = (side.weights(part) for part in WEIGHTED if part != "motion_adapter" or not moving)
        found += dict.fromkeys(weights for weights in parts if weights is not None)
    return tuple(found)


def describe_pair(
    strong: str,
    weak: str,
    motion_adapter: str | None = None,
    *,
    config: str | None = None,
    allow_pickle: bool = False,
    num_frames: int | None = None,
) -> PairDescription:
    """Returns the pair that `load_pair` would load from the same arguments, after every check that needs no weights.

    A single file takes its configs from `config`, or from the other side where that is a folder or a hub id. Hub ids
    are taken as given: what they hold is checked when they are loaded.

    Raises:
        UserError: something does not exist, is damaged, or does not fit the rest.
    """
    given = {"strong": strong, "weak": weak}
    sides: dict[str, Description] = {}
    files = [role for role in given if Path(given[role]).expanduser().is_file()]
    for role in sorted(given, key=lambda role: role in files):
        other = given["weak" if role == "strong" else "strong"]
        if role in files:
            path = Path(given[role]).expanduser()
            place = config or (other if is_hub_id(other) or (Path(other) / "model_index.json").is_file() else None)
            sides[role] = describe_file(given[role], path, role, place, allow_pickle, whole=False)
        else:
            sides[role] = describe(given[role], role, allow_pickle=allow_pickle, video=None, lent=True)
        _check_sdxl(sides[role])
    if config is not None and not files:
        raise UserError(f"neither side is a single file, so the config {config} would go unused; leave it out")
    adapter = None if motion_adapter is None else describe_motion_adapter(motion_adapter, allow_pickle=allow_pickle)
    bringing = [side for side in sides.values() if (side.part("unet") or {}).get("_class_name") == "UNetMotionModel"]
    own = sides["strong"].part_folder("motion_adapter") if sides["strong"].kind == "folder" else None
    if adapter is None and not bringing and own is not None:
        adapter = describe_motion_adapter(str(own), allow_pickle=allow_pickle)
    if adapter is None and not bringing and all(side.kind != "hub" for side in sides.values()):
        raise UserError(
            f"neither {strong} nor {weak} holds motion modules; give a motion adapter, "
            "such as guoyww/animatediff-motion-adapter-sdxl-beta"
        )
    if motion_adapter is not None and len(bringing) == 2:
        raise UserError(
            f"both sides hold motion modules of their own, so the motion adapter {motion_adapter} would go unused; "
            "leave it out"
        )
    pair = PairDescription(sides["strong"], sides["weak"], adapter, allow_pickle, num_frames, put_together=True)
    check_pair_configs(pair, pair.part)
    if not any(may_have_text(side) for side in sides.values()):
        raise UserError(
            f"neither {strong} nor {weak} holds SDXL's two text encoders; "
            "give one side as a whole diffusers folder or a whole single file"
        )
    return pair


def may_have_text(side: Description) -> bool:
    """Whether a side has SDXL's text encoders, as far as can be known before it is fetched."""
    if side.kind == "file":
        return "text_encoder" not in side.lacking
    return side.kind == "hub" or side.part_folder("text_encoder_2") is not None


def _check_sdxl(side: Description) -> None:
    if side.family not in (None, "sdxl"):
        raise UserError(f"{side.given} is of the family of {side.class_name}; motion modules for SDXL need SDXL")
    if side.kind == "folder" and side.part("unet") is None:
        raise UserError(f"{side.given} is a {side.class_name}; motion modules for SDXL need SDXL")


def check_pair_configs(pair: PairDescription, part: PartOf) -> None:
    """Raises `UserError` for configs that do not make a pair; those that `part` does not have are taken to fit."""
    names = {"strong": pair.strong.given, "weak": (pair.weak or pair.strong).given}
    adapter = part("motion", "motion_adapter")
    for role, name in names.items():
        unet = part(role, "unet")
        if unet is None:
            continue
        _check_unet(unet, name)
        if unet.get("_class_name") == "UNetMotionModel":
            check_frames(unet, name, pair.num_frames)
        elif adapter is not None:
            check_adapter_fits(adapter, unet, name)
    if adapter is not None:
        check_frames(adapter, "the motion adapter", pair.num_frames)
    spaces = [LatentSpace(part(role, "vae")) for role in names]
    found = compare_spaces(*spaces)
    if found.name not in ("share", "undecided"):
        raise UserError(f"{names['strong']} and {names['weak']} do not share a latent space: {found.message}")
    ours, theirs = (part(role, "unet") for role in names)
    for key in SAME_IN_UNETS if ours is not None and theirs is not None else ():
        _check_same("UNet " + key, [(config or {}).get(key) for config in (ours, theirs)], names)
    schedulers = [part(role, "scheduler") for role in names]
    if None not in schedulers:
        _check_same("prediction_type", [noise_levels.prediction_of(config or {}) for config in schedulers], names)
    vae = spaces[0].vae or spaces[1].vae
    if vae is not None and ours is not None and vae.get("latent_channels") != ours["in_channels"]:
        raise UserError(
            f"the UNet of {names['strong']} takes {ours['in_channels']} latent channels and the VAE makes "
            f"{vae.get('latent_channels')}; they must be equal"
        )


def _check_same(what: str, found: list[Any], names: Mapping[str, str]) -> None:
    if found[0] != found[1]:
        raise UserError(
            f"{what} is {found[0]} in {names['strong']} and {found[1]} in {names['weak']}, and both networks are told "
            "the same; give two checkpoints of one family"
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
