"""A pipeline for DiT-MoE, with the conventions of diffusers': classes in, pictures out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from operator import index
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    ImagePipelineOutput,
    SchedulerMixin,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from bridges.dit_moe.labels import ids_of, names_of
from bridges.dit_moe.network import DiTMoE
from w2sd_video.errors import UserError
from w2sd_video.latents.schedules import is_flow

PATHS = ("noise", "flow")
ClassLabels = int | str | Sequence[int | str]


def build_scheduler(path: str) -> DDIMScheduler | FlowMatchEulerDiscreteScheduler:
    """Returns the scheduler of a published checkpoint: `path` is "noise" for S and B, "flow" for XL and G.

    Raises:
        UserError: another path.
    """
    if path not in PATHS:
        raise UserError(f"path is {path!r}; choose noise (DiT-MoE S and B) or flow (XL and G)")
    if path == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        timestep_spacing="trailing",  # from the noisiest level on
    )


class DiTMoEPipeline(DiffusionPipeline):
    """Pictures of given classes by a DiT-MoE.

    Args:
        transformer: the network.
        vae: the autoencoder of its latents; None for latents only.
        scheduler: a noise scheduler for S and B, which are told its timesteps; a flow scheduler for XL and G, which
            are told the time in [0, 1] (see `build_scheduler`).
        id2label: {class id: names, comma between synonyms}, so that classes can be asked for by name.

    Load it with `DiTMoEPipeline.from_pretrained` (diffusers alone does not know the class).
    """

    model_cpu_offload_seq = "transformer->vae"
    _optional_components = ["vae"]  # noqa: RUF012  # read by diffusers
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012

    def __init__(
        self,
        transformer: DiTMoE,
        vae: AutoencoderKL | None,
        scheduler: SchedulerMixin,
        id2label: dict | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler)
        self.id2label = {int(key): names for key, names in (id2label or {}).items()}  # keys of JSON are text
        self.register_to_config(id2label=self.id2label or None)
        self.labels = {name: ids[0] for name, ids in names_of(self.id2label).items() if len(ids) == 1}
        self.image_processor = VaeImageProcessor()
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._interrupt = False

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def get_label_ids(self, label: str | Sequence[str]) -> list[int]:
        """Returns the class ids of names; `UserError` for a name that no class has, or more than one."""
        return ids_of([label] if isinstance(label, str) else list(label), self.id2label)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: ClassLabels,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.5,
        guidance_channels: int | None = None,
        num_images_per_label: int = 1,
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Returns `num_images_per_label` pictures of each class, in the order of the classes.

        Args:
            class_labels: class ids or names, one or several.
            num_inference_steps: steps of the sampler.
            guidance_scale: uncond + scale * (cond - uncond); 1 and less is no guidance.
            guidance_channels: how many channels are guided, from the first on; the others are the conditional
                prediction's. The published sampling of S and B guides 3 of 4; None is all.
            num_images_per_label: pictures of each class.
            generator: one for all pictures, or one per picture, whose noise is then the same in any batch.
            latents: initial noise [pictures, C, H, W] in the place of the generator's.
            output_type: "pil", "np", "pt" ([B, 3, H, W] in [0, 1]) or "latent".
            return_dict: False for a tuple.
            callback_on_step_end: called after each step as (pipeline, step, timestep, tensors); what it returns under
                "latents" is gone on from.
            callback_on_step_end_tensor_inputs: the tensors it is given; "latents" is the only one.

        Raises:
            UserError: arguments out of range.
        """
        self._guidance_scale = float(guidance_scale)
        self._interrupt = False
        if num_images_per_label < 1:
            raise UserError(f"num_images_per_label is {num_images_per_label}; it must be at least 1")
        classes = [i for i in self._class_ids(class_labels) for _ in range(num_images_per_label)]
        guided = self._guided_channels(guidance_channels)
        self._check_output(output_type, callback_on_step_end_tensor_inputs)
        device = self._execution_device
        latents = self._initial_latents(len(classes), generator, latents, device)
        labels = torch.tensor(classes, device=device)
        labels = torch.cat([labels, torch.full_like(labels, self.transformer.config.num_classes)])  # and no class
        timesteps = self._timesteps(num_inference_steps, device)
        self._num_timesteps = len(timesteps)
        unit = 1 / self.scheduler.config.num_train_timesteps if is_flow(self.scheduler) else 1
        with self.progress_bar(total=len(timesteps)) as bar:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                prediction = self._predict(latents, t, unit, labels, guided)
                latents = self.scheduler.step(prediction, t, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    tensors = dict.fromkeys(callback_on_step_end_tensor_inputs, latents)
                    latents = callback_on_step_end(self, i, t, tensors).pop("latents", latents)
                bar.update()
        images = latents if output_type == "latent" else self._decode(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _predict(self, latents: Tensor, t: Tensor, unit: float, labels: Tensor, guided: int) -> Tensor:
        """The network's prediction, guided in the first `guided` channels; both halves go through it in one call."""
        given = torch.cat([latents] * 2) if self.do_classifier_free_guidance else latents
        if hasattr(self.scheduler, "scale_model_input"):
            given = self.scheduler.scale_model_input(given, t)
        output = self.transformer(
            hidden_states=given.to(self.transformer.dtype),
            timestep=(t if unit == 1 else t * unit).expand(len(given)),
            class_labels=labels[: len(given)],  # a callback may turn guidance off
            return_dict=False,
        )[0]
        output = output[:, : latents.shape[1]].to(latents.dtype)  # without the learned variance
        if not self.do_classifier_free_guidance:
            return output
        conditional, unconditional = output.chunk(2)
        combined = unconditional + self._guidance_scale * (conditional - unconditional)
        return combined if guided == latents.shape[1] else torch.cat([combined[:, :guided], conditional[:, guided:]], 1)

    def _class_ids(self, class_labels: ClassLabels) -> list[int]:
        given = [class_labels] if isinstance(class_labels, int | str | Integral) else list(class_labels)
        if not given:
            raise UserError("no class is given; give at least one id or name")
        ids = [self.get_label_ids(each)[0] if isinstance(each, str) else index(each) for each in given]
        count = self.transformer.config.num_classes
        for i in ids:
            if not 0 <= i < count:
                raise UserError(f"class {i} is not one of this network's; give ids from 0 to {count - 1}")
        return ids

    def _guided_channels(self, channels: int | None) -> int:
        count = self.transformer.config.in_channels
        if channels is not None and not 1 <= channels <= count:
            raise UserError(f"guidance_channels is {channels}; it must be from 1 to {count}, or None for all")
        return count if channels is None else channels

    def _check_output(self, output_type: str, tensors: Sequence[str]) -> None:
        if output_type not in ("pil", "np", "pt", "latent"):
            raise UserError(f"output_type is {output_type!r}; choose one of pil, np, pt, latent")
        if self.vae is None and output_type != "latent":
            raise UserError("this pipeline has no VAE to make pictures with; give it one, or output_type='latent'")
        if unknown := set(tensors) - set(self._callback_tensor_inputs):
            raise UserError(f"a callback cannot be given {', '.join(sorted(unknown))}; it can be given latents")

    def _initial_latents(self, count: int, generator: Any, latents: Tensor | None, device: torch.device) -> Tensor:
        """[count, C, H, W], float32 or better whatever the network's dtype, at the scheduler's scale."""
        config = self.transformer.config
        shape = (count, config.in_channels, config.sample_size, config.sample_size)
        dtype = torch.promote_types(self.transformer.dtype, torch.float32)
        if isinstance(generator, list) and len(generator) != count:
            raise UserError(f"{len(generator)} generators are given for {count} pictures; give one, or one per picture")
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        elif tuple(latents.shape) != shape:
            raise UserError(f"latents have shape {tuple(latents.shape)}; for these pictures it must be {shape}")
        return latents.to(device, dtype) * getattr(self.scheduler, "init_noise_sigma", 1.0)

    def _timesteps(self, steps: int, device: torch.device) -> Tensor:
        if steps < 1:
            raise UserError(f"num_inference_steps is {steps}; it must be at least 1")
        if isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler):  # the published grid: 1, 1 - 1/T, ..., 1/T, 0
            self.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps), device=device)
        else:
            self.scheduler.set_timesteps(steps, device=device)
        return self.scheduler.timesteps

    def _decode(self, latents: Tensor, output_type: str) -> Any:
        pictures = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor, return_dict=False)[0]
        return self.image_processor.postprocess(pictures, output_type=output_type)
