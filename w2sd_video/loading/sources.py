"""Components of a pair from where they lie: a diffusers folder, a hub id or a single file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    MotionAdapter,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
)
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from w2sd_video.errors import UserError
from w2sd_video.latents.vaes import vae_dtype
from w2sd_video.loading.checkpoints import LDM_TEXT, LDM_UNET, LDM_VAE, Checkpoint, read_json, weight_files
from w2sd_video.loading.text_parts import TextParts, check_tokenizers

NETWORKS: dict[str, Any] = {"UNet2DConditionModel": UNet2DConditionModel, "UNetMotionModel": UNetMotionModel}


@contextmanager
def progress_bars(*, shown: bool) -> Iterator[None]:
    """Inside, the libraries' progress bars for loading are as they were, or silenced; afterwards as they were."""
    switches = [logging for logging in (diffusers_logging, transformers_logging) if not shown]
    active = [logging for logging in switches if logging.is_progress_bar_enabled()]
    for logging in active:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in active:
            logging.enable_progress_bar()


@contextmanager
def reading(name: str, part: str) -> Iterator[None]:
    """Turn what the libraries raise for damaged, missing or unfitting weights into an error that names the file."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # safetensors, huggingface_hub, diffusers and transformers each raise their own
        if "meta tensor" in str(error):  # how diffusers ends when a single file leaves part of a network without values
            raise UserError(
                f"the {part} of {name} lacks tensors, which would be random; download the checkpoint again, "
                "or give the config made for it"
            ) from error
        reason = " ".join(str(error).split())[:400].rstrip(".")
        remedy = "check that the checkpoint is complete and that its configs are its own"
        if not Path(name).expanduser().exists():
            remedy = "check the hub id and the connection, or give a local folder or file"
        raise UserError(f"cannot load the {part} of {name}: {type(error).__name__}: {reason}; {remedy}") from error


def check_complete(module: Any, name: str, part: str, info: dict[str, Any] | None = None) -> Any:
    """Returns `module` in evaluation mode, once every tensor of it is known to come from the checkpoint."""
    unset = set((info or {}).get("missing_keys") or ())
    unset |= {key for key, *_ in (info or {}).get("mismatched_keys") or ()}
    unset |= {key for key, tensor in module.named_parameters() if tensor.is_meta}
    if unset:
        raise UserError(
            f"the {part} of {name} lacks {len(unset)} tensors, which would be random: {', '.join(sorted(unset)[:5])}; "
            "download the checkpoint again, or give the config made for it"
        )
    return module.eval()


class FolderSource:
    """A diffusers folder, a folder with one network, or a hub id."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, allow_pickle: bool = False) -> None:
        self.checkpoint, self.dtype, self.allow_pickle = checkpoint, dtype, allow_pickle

    def load(self, kind: Any, part: str, dtype: torch.dtype, **settings: Any) -> Any:
        """`kind.from_pretrained` of `part`, strictly; on the hub the half-size files are tried first for 16 bits.

        On the hub a part lies in the subfolder of its name, unless `settings` has another `subfolder` (None: none).
        """
        name, folder = self.checkpoint.given, self.checkpoint.part_folder(part)
        if self.checkpoint.kind == "network":
            folder = self.checkpoint.path
        if self.checkpoint.kind == "hub" and part != "motion_adapter":
            settings = {"subfolder": part, **settings}
        variants: list[str | None] = [None]
        if folder is not None:
            files = weight_files(folder)
            variants = ["fp16" if files and ".fp16" in files[0].name else None]
        elif dtype in (torch.float16, torch.bfloat16):
            variants = ["fp16", None]
        for variant in variants:
            with reading(name, part):
                try:
                    module, info = kind.from_pretrained(
                        str(folder) if folder is not None else name,
                        dtype=dtype,
                        variant=variant,
                        use_safetensors=None if self.allow_pickle else True,
                        local_files_only=folder is not None,
                        output_loading_info=True,
                        **settings,
                    )
                except OSError:
                    if variant == variants[-1]:
                        raise
                    continue
            surplus = info.get("unexpected_keys") or ()
            if surplus and part in ("unet", "transformer", "motion_adapter"):
                raise UserError(
                    f"the {part} of {name} holds {len(surplus)} tensors that its config has no place for: "
                    f"{', '.join(sorted(surplus)[:5])}; they would be dropped: give the config made for it"
                )
            return check_complete(module, name, part, info)
        raise AssertionError("the last variant either loads or raises")

    def config(self, part: str) -> dict[str, Any] | None:
        """The config of `part`; fetched where the checkpoint is a hub id, None where there is none."""
        if self.checkpoint.kind != "hub":
            return self.checkpoint.config(part)
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        inside = {"model_index": "model_index.json", "motion_adapter": "config.json"}.get(part, f"{part}/{file}")
        with reading(self.checkpoint.given, part):
            try:
                return read_json(Path(hf_hub_download(self.checkpoint.given, inside)))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                return None

    def unet(self) -> UNet2DConditionModel | UNetMotionModel:
        name = (self.config("unet") or {}).get("_class_name", "UNet2DConditionModel")
        if name not in NETWORKS:
            raise UserError(f"the unet of {self.checkpoint.given} is a {name}; allowed: {' or '.join(NETWORKS)}")
        return self.load(NETWORKS[name], "unet", self.dtype)

    def vae(self) -> AutoencoderKL | None:
        config = self.config("vae")
        return None if config is None else self.load(AutoencoderKL, "vae", vae_dtype(config, self.dtype))

    def motion_adapter(self) -> MotionAdapter:
        return self.load(MotionAdapter, "motion_adapter", self.dtype)

    def text(self) -> TextParts | None:
        if self.config("text_encoder") is None or self.config("text_encoder_2") is None:
            return None
        name, path = self.checkpoint.given, self.checkpoint.path
        tokenizers = {}
        for part in ("tokenizer", "tokenizer_2"):
            with reading(name, part):
                tokenizers[part] = CLIPTokenizer.from_pretrained(
                    str(path or name), subfolder=part, local_files_only=path is not None
                )
        parts = TextParts(
            **tokenizers,
            text_encoder=self.load(CLIPTextModel, "text_encoder", self.dtype),
            text_encoder_2=self.load(CLIPTextModelWithProjection, "text_encoder_2", self.dtype),
            force_zeros=bool((self.config("model_index") or {}).get("force_zeros_for_empty_prompt", True)),
        )
        return check_tokenizers(parts, name)


class FileSource:
    """A single SDXL file; configs and tokenizers come from the `config` folder (or hub id)."""

    def __init__(self, checkpoint: Checkpoint, config: str, dtype: torch.dtype) -> None:
        self.checkpoint, self.dtype = checkpoint, dtype
        folder = Path(config)
        base = Checkpoint(config, "pipeline", folder) if folder.is_dir() else Checkpoint(config, "hub")
        self.base = FolderSource(base, dtype)

    def _has(self, *keys: str) -> bool:
        header = self.checkpoint.header
        return header is None or all(any(name.startswith(key) for name in header) for key in keys)

    @property
    def place(self) -> dict[str, Any]:
        return {"config": self.base.checkpoint.given, "local_files_only": self.base.checkpoint.kind == "pipeline"}

    def config(self, part: str) -> dict[str, Any] | None:
        found = self.base.config(part)
        if part == "unet" and found is not None:
            return {**found, "_class_name": "UNet2DConditionModel"}
        if part == "scheduler" and found is not None and self.checkpoint.header and "v_pred" in self.checkpoint.header:
            return {**found, "prediction_type": "v_prediction"}
        return None if part == "vae" and not self._has(LDM_VAE) else found

    def load(self, kind: Any, part: str, dtype: torch.dtype) -> Any:
        """`kind.from_single_file` of `part`, refused where a tensor of it stays without a value."""
        name = self.checkpoint.given
        with reading(name, part):
            module = kind.from_single_file(str(self.checkpoint.path), subfolder=part, dtype=dtype, **self.place)
        return check_complete(module, name, part)

    def unet(self) -> UNet2DConditionModel:
        network = self.load(UNet2DConditionModel, "unet", self.dtype)
        # The layouts correspond tensor by tensor; diffusers drops without a word what its config does not describe.
        held = sum(name.startswith(LDM_UNET) for name in self.checkpoint.header or ())
        described = len(network.state_dict())
        if self.checkpoint.header is not None and held != described:
            raise UserError(
                f"the UNet of {self.checkpoint.given} holds {held} tensors and its config describes {described}; "
                "give the config folder of the file's own family"
            )
        return network

    def vae(self) -> AutoencoderKL | None:
        config = self.config("vae")
        return None if config is None else self.load(AutoencoderKL, "vae", vae_dtype(config, self.dtype))

    def text(self) -> TextParts | None:
        if not self._has(*LDM_TEXT):
            return None
        name = self.checkpoint.given
        with reading(name, "text encoders"):
            pipe = StableDiffusionXLPipeline.from_single_file(
                str(self.checkpoint.path), unet=None, vae=None, dtype=self.dtype, add_watermarker=False, **self.place
            )
        for part in ("text_encoder", "text_encoder_2"):
            check_complete(getattr(pipe, part), name, part)
        force_zeros = bool((self.base.config("model_index") or {}).get("force_zeros_for_empty_prompt", True))
        parts = TextParts(pipe.tokenizer, pipe.tokenizer_2, pipe.text_encoder, pipe.text_encoder_2, force_zeros)
        return check_tokenizers(parts, self.base.checkpoint.given)


Source = FolderSource | FileSource
