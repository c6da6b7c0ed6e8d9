"""The DiT-MoE network (Fei et al., arXiv 2407.11633) as a diffusers model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from bridges.dit_moe.configurations import TIMESTEP_CHANNELS
from bridges.dit_moe.experts import METHODS, MixtureOfExperts
from bridges.dit_moe.recording import Recording
from bridges.dit_moe.routing import RoutingPlan, plan_routing
from w2sd_video.errors import UserError
from w2sd_video.pair import Routing

EPS = 1e-6  # of every LayerNorm


def sinusoid(timesteps: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 256]: cosines, then sines, of `timesteps` [B] times exp(-ln(10000) k / 128)."""
    wide = torch.promote_types(dtype, torch.float32)
    half = TIMESTEP_CHANNELS // 2
    frequencies = torch.exp(torch.arange(half, device=timesteps.device, dtype=wide) * (-math.log(10000) / half))
    angles = timesteps.to(wide)[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1).to(dtype)


def position_embedding(side: int, width: int) -> Tensor:
    """[1, side * side, width], row-major: sines and cosines of the column in the first half, of the row in the rest."""
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], -1)  # [side, width / 2]
    columns = waves[None].expand(side, -1, -1)
    rows = waves[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], -1).reshape(1, side * side, width).float()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without affine, then * (1 + scale) + shift, for x [B, N, D] and shift, scale [B, 1, D]."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=EPS), 1 + scale)


class PatchEmbedding(nn.Module):
    def __init__(self, in_channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, N, D], row-major."""
        return self.proj(x).flatten(2).transpose(1, 2)


class TimestepEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIMESTEP_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        return self.mlp(sinusoid(timesteps, self.mlp[0].weight.dtype))


class LabelEmbedding(nn.Module):
    """A row per class, and one more for "no class"."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


class Attention(nn.Module):
    """Self-attention with queries, keys and values from one product; LayerNorms over each head where `qk_norm`."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm = nn.LayerNorm(width // heads, eps=EPS) if qk_norm else None
        self.k_norm = nn.LayerNorm(width // heads, eps=EPS) if qk_norm else None

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        qkv = self.qkv(x.reshape(-1, width))
        q, k, v = qkv.view(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(-1, width)).view(x.shape)


class DiTMoEBlock(nn.Module):
    def __init__(self, width: int, attention: Attention, moe: MixtureOfExperts) -> None:
        super().__init__()
        self.attn = attention
        self.moe = moe
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor, plan: RoutingPlan, recording: Recording | None) -> Tensor:
        """Tokens [B, N, D] -> [B, N, D] under `condition` [B, D]."""
        modulation = self.modulation(condition).unsqueeze(1)
        shift, scale, gate, moe_shift, moe_scale, moe_gate = modulation.chunk(6, -1)
        x = torch.addcmul(x, gate, self.attn(modulate(x, shift, scale)))
        update, choice = self.moe(modulate(x, moe_shift, moe_scale), plan)
        if recording is not None:
            recording.note(choice, plan)
        return torch.addcmul(x, moe_gate, update)


class FinalLayer(nn.Module):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.modulation = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, -1)
        return self.linear(modulate(x, shift, scale))


class DiTMoE(ModelMixin, ConfigMixin):
    """A class-conditional diffusion transformer with a sparse mixture of experts in each block.

    `network.routing` is the routing in force where a call names none: a `Routing`, one per batch row, or None for the
    `num_experts_per_tok` experts of highest score. Hidden sizes left out are 4 (routed) and 2 (shared) times
    `hidden_size`, as published; `shared_expert_hidden_size=0` leaves the shared expert out.

    Raises:
        UserError: sizes that do not go together.
    """

    _no_split_modules = ["DiTMoEBlock"]  # noqa: RUF012  # read by diffusers
    _repeated_blocks = ["DiTMoEBlock"]  # noqa: RUF012
    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        out_channels: int = 8,
        num_layers: int = 12,
        hidden_size: int = 384,
        num_attention_heads: int = 6,
        num_experts: int = 8,
        num_experts_per_tok: int = 2,
        num_classes: int = 1000,
        qk_norm: bool = False,
        expert_hidden_size: int | None = None,
        shared_expert_hidden_size: int | None = None,
    ) -> None:
        super().__init__()
        if sample_size % patch_size or hidden_size % num_attention_heads or hidden_size % 4:
            raise UserError(
                f"sample_size {sample_size} must be a multiple of patch_size {patch_size}, and hidden_size "
                f"{hidden_size} of num_attention_heads {num_attention_heads} and of 4"
            )
        if not 1 <= num_experts_per_tok <= num_experts:
            raise UserError(f"num_experts_per_tok is {num_experts_per_tok}; allowed: 1 to {num_experts}, the experts")
        hidden = 4 * hidden_size if expert_hidden_size is None else expert_hidden_size
        shared = 2 * hidden_size if shared_expert_hidden_size is None else shared_expert_hidden_size
        self.register_to_config(expert_hidden_size=hidden, shared_expert_hidden_size=shared)
        self.x_embedder = PatchEmbedding(in_channels, hidden_size, patch_size)
        self.t_embedder = TimestepEmbedding(hidden_size)
        self.y_embedder = LabelEmbedding(num_classes, hidden_size)
        self.register_buffer("pos_embed", position_embedding(sample_size // patch_size, hidden_size))
        self.blocks = nn.ModuleList(
            DiTMoEBlock(
                hidden_size,
                Attention(hidden_size, num_attention_heads, qk_norm=qk_norm),
                MixtureOfExperts(num_experts, hidden_size, hidden, shared),
            )
            for _ in range(num_layers)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size * patch_size * out_channels)
        self.routing: Routing | Sequence[Routing] | None = None
        self._recording: Recording | None = None
        self._initialize()

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor,
        routing: Routing | Sequence[Routing] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The prediction [B, out_channels, H, W] for latents `hidden_states` [B, in_channels, H, W].

        `timestep` is [B] or one for all rows, as the network was trained: 0 .. 999 (noise), or in [0, 1] (flow).
        `class_labels` [B] holds 0 .. num_classes, the last one "no class". `routing` is one for all rows or one per
        row; None takes `network.routing`. Of the published networks' 8 channels the last 4 are learned variances.

        Raises:
            UserError: another size of latents, labels or routings for another number of rows, unknown experts.
        """
        rows = hidden_states.shape[0]
        expected = (self.config.in_channels, self.config.sample_size, self.config.sample_size)
        if hidden_states.ndim != 4 or tuple(hidden_states.shape[1:]) != expected:
            raise UserError(
                f"the latents have shape {tuple(hidden_states.shape)}; this network takes "
                f"[batch, {', '.join(map(str, expected))}]"
            )
        if tuple(class_labels.shape) != (rows,):
            raise UserError(
                f"class_labels has shape {tuple(class_labels.shape)}; give one label for each of {rows} rows"
            )
        if not isinstance(timestep, Tensor):
            timestep = torch.full((rows,), timestep, device=hidden_states.device)
        plan = self._plan(rows, self.routing if routing is None else routing, hidden_states.device)
        if self._recording is not None:
            self._recording.begin(plan)

        x = self.x_embedder(hidden_states) + self.pos_embed
        condition = F.silu(self.t_embedder(timestep.expand(rows)) + self.y_embedder(class_labels))
        for block in self.blocks:
            x = block(x, condition, plan, self._recording)
        sample = self._unpatch(self.final_layer(x, condition))
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    @contextmanager
    def recording(self, *, probabilities: bool = True) -> Iterator[Recording]:
        """Inside, what the routers choose is kept: `with network.recording() as record: network(...)`.

        Without `probabilities` only the picks are, which is enough for loads and little to keep.
        """
        outer, self._recording = self._recording, Recording(probabilities=probabilities)
        try:
            yield self._recording
        finally:
            self._recording = outer

    def set_expert_method(self, method: str) -> None:
        """How the experts are computed: "auto", "grouped", "loop" or "dense" (the same to rounding).

        Raises:
            UserError: another word.
        """
        if method not in METHODS:
            raise UserError(f"the experts' method is {method!r}; choose one of {', '.join(METHODS)}")
        for block in self.blocks:
            block.moe.method = method

    def _plan(self, rows: int, routing: Routing | Sequence[Routing] | None, device: torch.device) -> RoutingPlan:
        if routing is None:
            routing = Routing(k=self.config.num_experts_per_tok)
        per_row = [routing] * rows if isinstance(routing, Routing) else list(routing)
        if len(per_row) != rows:
            raise UserError(f"{len(per_row)} routings were given for a batch of {rows} rows; give one, or one per row")
        return plan_routing(per_row, self.pos_embed.shape[1], self.config.num_experts, device)

    def _unpatch(self, x: Tensor) -> Tensor:
        """[B, N, patch * patch * C], each patch ordered (row, column, channel), to [B, C, H, W]."""
        side, patch = self.config.sample_size // self.config.patch_size, self.config.patch_size
        x = x.view(-1, side, side, patch, patch, self.config.out_channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.config.out_channels, side * patch, side * patch)

    def _initialize(self) -> None:
        """DiT's initial weights: Xavier, and zeros where a block or the last layer would add to its input."""
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        for layer in (self.y_embedder.embedding_table, self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for last in (self.final_layer.linear, *(part.modulation for part in (*self.blocks, self.final_layer))):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
