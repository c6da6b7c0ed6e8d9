"""Tag2Text (arXiv 2303.05657), Swin-B at 384 pixels: pictures to captions, guided by the tags it sees in them."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache as remembered
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbench_eval.backbones.bert import Bert, BertLayer, BertSizes, WordPieces, beam_search, read_vocabulary
from vbench_eval.backbones.loading import load_state, load_strictly, origin, placed
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.errors import UserError
from vbench_eval.files import read_bytes
from vbench_eval.resizing import to_float

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
PROMPT = "a picture of "
SURE = 0.7  # of a tag, at least
NEVER = (127, 3265, 3338, 3351, 3355, 3359)  # tags that are not used, whatever the network says
TAG_TOKENS = 40
BEAMS, SHORTEST, LONGEST = 3, 10, 30  # of a caption's search; its length counts the prompt
BATCH = 8


@dataclass(frozen=True)
class Tag2TextSizes:
    """The published network's."""

    side: int = 384
    patch: int = 4
    window: int = 12
    width: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    tags: int = 3429
    tagger_layers: int = 2
    tagger_heads: int = 4
    text: BertSizes = field(default_factory=BertSizes)

    @property
    def seen(self) -> int:
        """The width of the picture's features."""
        return self.width * 2 ** (len(self.depths) - 1)


# the picture: a Swin transformer


@remembered
def relative_places(window: int) -> Tensor:
    """Returns `[n, n]`, n = window^2: which row of the table of biases belongs to two places of a window."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    place = torch.stack([y, x]).flatten(1)
    apart = place[:, :, None] - place[:, None, :] + window - 1
    return apart[0] * (2 * window - 1) + apart[1]


@remembered
def shifted_mask(side: int, window: int, shift: int) -> Tensor:
    """Returns `[windows, n, n]`, added to scores: -100 between places that only the shift brought into one window."""
    ends = torch.zeros(side, dtype=torch.long)
    ends[side - window : side - shift] = 1
    ends[side - shift :] = 2
    area = windows((3 * ends[:, None] + ends)[None, :, :, None], window)[..., 0]
    return -100.0 * (area[:, None, :] != area[:, :, None])


def windows(x: Tensor, window: int) -> Tensor:
    """Returns `[B * windows, n, C]` of `[B, side, side, C]`."""
    batch, side, _, channels = x.shape
    x = x.view(batch, side // window, window, side // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


class _WindowAttention(nn.Module):
    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`x` is `[B * windows, n, C]`, the mask `[windows, n, n]`."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[relative_places(self.window).to(x.device)].permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask.to(x)[:, None]).repeat(len(x) // len(mask), 1, 1, 1)
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


class _SwinBlock(nn.Module):
    """Attention in windows of the map, in every other block of the map shifted by half a window."""

    def __init__(self, width: int, heads: int, *, side: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.side, self.window = side, min(window, side)
        self.shift = window // 2 if shifted and side > window else 0
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = _WindowAttention(width, heads, self.window)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        batch, places, channels = x.shape
        side, window = self.side, self.window
        mask = shifted_mask(side, window, self.shift) if self.shift else None
        rolled = self.norm1(x).view(batch, side, side, channels).roll((-self.shift, -self.shift), (1, 2))
        seen = self.attn(windows(rolled, window), mask)
        seen = seen.view(batch, side // window, side // window, window, window, channels).permute(0, 1, 3, 2, 4, 5)
        seen = seen.reshape(batch, side, side, channels).roll((self.shift, self.shift), (1, 2))
        x = x + seen.reshape(batch, places, channels)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class _Merging(nn.Module):
    """Each 2x2 places become one of twice the channels."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.norm, self.reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (self.side // 2, 2, self.side // 2, 2)).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.flatten(3).flatten(1, 2)))


class _Stage(nn.Module):
    def __init__(self, width: int, heads: int, depth: int, *, side: int, window: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _SwinBlock(width, heads, side=side, window=window, shifted=number % 2 == 1) for number in range(depth)
        )
        self.downsample = None if last else _Merging(width, side)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class _Swin(nn.Module):
    def __init__(self, sizes: Tag2TextSizes) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch), "norm": nn.LayerNorm(sizes.width)}
        )
        self.layers = nn.ModuleList(
            _Stage(
                sizes.width * 2**number,
                heads,
                depth,
                side=sizes.side // sizes.patch // 2**number,
                window=sizes.window,
                last=number == len(sizes.depths) - 1,
            )
            for number, (depth, heads) in enumerate(zip(sizes.depths, sizes.heads, strict=True))
        )
        self.norm = nn.LayerNorm(sizes.seen)

    def forward(self, pictures: Tensor) -> Tensor:
        """Returns `[B, 1 + places, seen]` of pictures `[B, 3, side, side]`: the mean of all places comes first."""
        x = self.patch_embed["norm"](self.patch_embed["proj"](pictures).flatten(2).transpose(1, 2))
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return torch.cat([x.mean(1, keepdim=True), x], dim=1)


# from the picture to tags, and from both to a caption


class _PerTag(nn.Module):
    """A linear layer with one row of weights for each tag."""

    def __init__(self, tags: int, width: int) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.zeros(1, tags, width)), nn.Parameter(torch.zeros(1, tags))

    def forward(self, x: Tensor) -> Tensor:
        return (self.W * x).sum(-1) + self.b


class _Tagger(nn.Module):
    """Layers of a BERT without attention to itself: each tag looks at the picture by itself."""

    def __init__(self, sizes: Tag2TextSizes) -> None:
        super().__init__()
        shape = BertSizes(width=sizes.text.width, heads=sizes.tagger_heads, seen=sizes.seen)
        layers = nn.ModuleList(BertLayer(shape, alone=False) for _ in range(sizes.tagger_layers))
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        for layer in self.encoder["layer"]:
            x = layer(x, seen)
        return x


class _Writer(nn.Module):
    """A causal BERT with its head."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.bert = Bert(sizes)
        transform = {"dense": nn.Linear(sizes.width, sizes.width), "LayerNorm": nn.LayerNorm(sizes.width, eps=1e-12)}
        predictions = {"transform": nn.ModuleDict(transform), "decoder": nn.Linear(sizes.width, sizes.vocabulary)}
        self.cls = nn.ModuleDict({"predictions": nn.ModuleDict(predictions)})

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """Returns the logits `[B, vocabulary]` of the token after each row of `tokens [B, n]`."""
        predictions = self.cls["predictions"]
        x = F.gelu(predictions["transform"]["dense"](self.bert(tokens, seen, causal=True)[:, -1]))
        return predictions["decoder"](predictions["transform"]["LayerNorm"](x))


class Tag2Text(nn.Module):
    """A picture's features, a tagger, an encoder of the tags' text, and the caption's writer."""

    def __init__(self, sizes: Tag2TextSizes) -> None:
        super().__init__()
        self.sizes = sizes
        text = sizes.text
        self.visual_encoder = _Swin(sizes)
        self.tag_encoder = Bert(
            BertSizes(text.vocabulary, text.width, text.layers, text.heads, sizes.seen, text.positions)
        )
        self.text_decoder = _Writer(text)
        self.vision_multi = _Tagger(sizes)
        self.label_embed = nn.Embedding(sizes.tags, text.width)
        self.fc = _PerTag(sizes.tags, text.width)

    def tags(self, seen: Tensor) -> Tensor:
        """Returns which tags it is sure of, `[B, tags]`, of pictures' features."""
        labels = self.label_embed.weight[None].expand(len(seen), -1, -1)
        sure = self.fc(self.vision_multi(labels, seen)).float().sigmoid() > SURE
        sure[:, [number for number in NEVER if number < self.sizes.tags]] = False
        return sure


def read_tags(path: Path) -> tuple[str, ...]:
    """Returns the tags of VBench's tag_class.py, of which nothing is run: its one list of texts is read."""
    try:
        tree = ast.parse(read_bytes(path, "list of tags").decode("utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"list of tags {path} cannot be read: {error}") from error
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            names = [entry.value for entry in node.value.elts if isinstance(entry, ast.Constant)]
            if names and len(names) == len(node.value.elts) and all(isinstance(name, str) for name in names):
                return tuple(str(name) for name in names)
    raise UserError(f"list of tags {path} holds no list of texts; give VBench's tag_class.py")


class Tag2TextCaptioner:
    """Pictures to captions, at 384x384 whatever their shape, by swscale's bilinear filter."""

    num_frames = 16

    def __init__(
        self, network: Tag2Text, tags: Sequence[str], words: WordPieces, *, provenance: Mapping[str, Any]
    ) -> None:
        self.name = str(provenance["id"])
        if len(tags) != network.sizes.tags:
            raise UserError(f"{len(tags)} tags are given and the network knows {network.sizes.tags}")
        self.side = network.sizes.side
        self._network, self._tags, self._words = network, tuple(tags), words
        self._provenance = dict(provenance)

    def shrink(self, frames: Tensor) -> Tensor:
        """Returns the frames at `[T, side, side, 3]`, uint8."""
        import av

        side = self.side
        small = [
            av.VideoFrame.from_ndarray(frame.cpu().numpy(), format="rgb24")
            .reformat(side, side, "rgb24", interpolation="BILINEAR")
            .to_ndarray()
            for frame in frames.contiguous()
        ]
        return torch.stack([torch.from_numpy(frame) for frame in small])

    @torch.no_grad()
    def captions(self, frames: Tensor) -> list[str]:
        """Returns a caption for each shrunk frame `[T, side, side, 3]`, uint8."""
        return [caption for some in frames.split(BATCH) for caption in self._captions(some)]

    def _captions(self, frames: Tensor) -> list[str]:
        network, words = self._network, self._words
        weight = network.label_embed.weight
        mean, std = (torch.tensor(values, device=weight.device)[:, None, None] for values in (MEAN, STD))
        x = (to_float(frames.to(weight.device)) / 255 - mean) / std
        seen = network.visual_encoder(x.to(weight.dtype))
        texts = [
            " | ".join(name for name, sure in zip(self._tags, row, strict=True) if sure)
            for row in network.tags(seen).tolist()
        ]
        tokens = torch.zeros(len(texts), TAG_TOKENS, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            ids = [words.encoder, *words.encode(text)[: TAG_TOKENS - 2], words.end]
            row[: len(ids)] = torch.tensor(ids)
        there = tokens != 0  # of the padding
        tagged = network.tag_encoder(tokens.to(weight.device), seen, there=there.to(weight.device))
        tagged = tagged.repeat_interleave(BEAMS, 0)
        prompt = [words.start, *words.encode(PROMPT)]
        found = beam_search(
            lambda rows: network.text_decoder(rows, tagged),
            torch.tensor([prompt] * len(frames), device=weight.device),
            beams=BEAMS,
            shortest=SHORTEST,
            longest=LONGEST,
            end=words.end,
        )
        return [words.decode(ids)[len(PROMPT) :] for ids in found]

    def provenance(self) -> dict[str, Any]:
        return dict(self._provenance)


def own_names(state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Returns the state under the names that the network has: without tables that follow from its sizes, and with what
    files keep once or twice (the tagger's layers are the tag encoder's first, the writer's last the words') as twins.

    Raises UserError for twins that differ.
    """
    tables = (".relative_position_index", ".attn_mask", ".position_ids")
    full = {key: value for key, value in state.items() if not key.endswith(tables)}
    twins = [
        ("text_decoder.cls.predictions.bias", "text_decoder.cls.predictions.decoder.bias"),
        ("text_decoder.bert.embeddings.word_embeddings.weight", "text_decoder.cls.predictions.decoder.weight"),
    ]
    twins += [(key, key.replace("vision_multi.", "tag_encoder.", 1)) for key in full if key.startswith("vision_multi.")]
    for first, second in twins:
        if first in full and not torch.equal(full.setdefault(second, full[first]), full[first]):
            raise UserError(f"{source} is damaged: {first} and {second} are the same layer, but differ")
    full.pop("text_decoder.cls.predictions.bias", None)
    return full


def load_tag2text(
    path: Path,
    tags: Path,
    vocabulary: Path,
    *,
    sizes: Tag2TextSizes | None = None,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> Tag2TextCaptioner:
    """Returns the captioner of a checkpoint (tag2text_swin_14m.pth); UserError for a state of other names.

    Parts beside the captioner's own (those that only training needs) are passed over.
    """
    with torch.device("meta"):
        network = Tag2Text(sizes or Tag2TextSizes())
    parts = {name for name, _ in network.named_children()}
    state = own_names(load_state(path, allow_pickle=allow_pickle), source=str(path))
    load_strictly(
        network, {key: value for key, value in state.items() if key.partition(".")[0] in parts}, source=str(path)
    )
    placed(network, device, dtype)
    provenance = origin(WEIGHTS["tag2text"], path, network, cache=cache)
    return Tag2TextCaptioner(network, read_tags(tags), read_vocabulary(vocabulary), provenance=provenance)
