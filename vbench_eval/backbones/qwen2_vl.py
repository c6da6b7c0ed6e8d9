"""Qwen2-VL as a network that rewards: a head on the hidden states at special tokens of the text (HPSv3, VideoReward).

What both published programs do, and their key names; checked with tiny random networks alone, not with published
weights. They call the language model with embeddings, so that its positions are 0, 1, 2, ... along all three axes,
where Qwen2-VL itself counts pictures by row and column.

A folder holds everything: config.json and the tokenizer's files of the Qwen2-VL it began as, the published weights, and
`judge_prompt.txt`: the published text of instruction, with `{text_prompt}` and the special tokens, which is not copied
here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vbench_eval.backbones.loading import load_strictly, placed, pretrained
from vbench_eval.errors import UserError

PROMPT_FILE = "judge_prompt.txt"
PLACE = "{text_prompt}"
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
UNUSED = "lm_head.weight"


def rounded_size(height: int, width: int, *, least: int, most: int, factor: int) -> tuple[int, int]:
    """Returns Qwen2-VL's size of a picture: sides multiples of `factor`, their product `least` to `most` as far as the
    proportions allow it.
    """
    high, wide = (max(factor, round(side / factor) * factor) for side in (height, width))
    if high * wide > most:
        scale = (most / (height * width)) ** 0.5
        high, wide = (max(factor, int(side * scale // factor) * factor) for side in (height, width))
    elif high * wide < least:
        scale = (least / (height * width)) ** 0.5
        high, wide = (int(-(-side * scale // factor)) * factor for side in (height, width))
    return high, wide


def in_patches(frames: Tensor, *, patch: int, merge: int, together: int) -> tuple[Tensor, tuple[int, int, int]]:
    """Returns patches `[N, 3 * together * patch * patch]` of frames `[T, 3, H, W]` in 0..255, normalised, in the order
    that the tower merges them, and their grid (time, rows, columns). The last frame fills up the last group.
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    x = (frames.float() / 255 - mean) / std
    if lacking := -len(x) % together:
        x = torch.cat([x, x[-1:].expand(lacking, -1, -1, -1)])
    grid = (len(x) // together, x.shape[2] // patch, x.shape[3] // patch)
    x = x.view(grid[0], together, 3, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch)
    return x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(grid[0] * grid[1] * grid[2], -1), grid


def read_instruction(folder: Path, tokens: Sequence[str], *, published: str) -> str:
    """Returns the text of the folder's `judge_prompt.txt`; raises UserError where it is not there or not whole."""
    path = folder / PROMPT_FILE
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the text of instruction that the network was trained with. Save {published} there as "
            f"it stands, with {PLACE} and {', '.join(tokens)} in it; it is not part of this program"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; give {published} as text") from error
    if wrong := [word for word in (PLACE, *tokens) if text.count(word) != 1]:
        raise UserError(f"{path} must have {', '.join(wrong)} exactly once; give {published} as it stands")
    return text


def modern_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state under the names of transformers' `Qwen2VLModel` beside `rm_head.`, from the names of versions up
    to 4.51 (visual., model.layers.) or later ones (model.visual., model.language_model.).
    """
    renamed = {}
    for key, value in state.items():
        if key == UNUSED:
            continue
        inner = key.removeprefix("model.")
        if inner != key and not re.match(r"(visual|language_model)\.", inner):
            inner = f"language_model.{inner}"
        renamed[inner] = value
    return renamed


class TokenReward:
    """A Qwen2-VL with a head, its tokenizer, and the special tokens at whose places the head is read."""

    def __init__(self, network: Any, head: nn.Module, tokenizer: Any, tokens: Sequence[str]) -> None:
        self.network, self._head, self._tokenizer, self._tokens = network, head, tokenizer, tuple(tokens)
        vision = network.config.vision_config
        self._cut = {"patch": vision.patch_size, "merge": vision.spatial_merge_size}
        self._together = int(vision.temporal_patch_size)
        self.factor = vision.patch_size * vision.spatial_merge_size

    def ids(self, kind: str, seen: int, text: str) -> Tensor:
        """Returns the tokens `[1, L]` of a question about a picture ("image") or "video" that takes `seen` places.

        Raises UserError where the tokenizer or a prompt does not give the places and special tokens expected.
        """
        content = [{"type": kind}, {"type": "text", "text": text}]
        said = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        pad = f"<|{kind}_pad|>"
        ids = self._tokenizer(said.replace(pad, pad * seen, 1), return_tensors="pt")["input_ids"]
        for token, wanted in ((pad, seen), *((token, 1) for token in self._tokens)):
            if int((ids == self._tokenizer.convert_tokens_to_ids(token)).sum()) != wanted:
                raise UserError(
                    f"the tokenizer gives {token} another number of times than {wanted}; give that of Qwen2-VL-Instruct"
                    " with its chat template, and prompts without special tokens"
                )
        return ids

    @torch.inference_mode()
    def read(self, kind: str, frames: Tensor, text: str) -> Tensor:
        """Returns what the head says `[tokens, outputs]`, float32 on the CPU, in the order of the tokens in the text,
        of one picture or video `[T, 3, H, W]` in 0..255 with sides that are multiples of `factor`.
        """
        pixels, grid = in_patches(frames, **self._cut, together=self._together)
        visual, language = self.network.visual, self.network.language_model
        seen = visual(
            pixels.to(self.network.device, visual.dtype), grid_thw=torch.tensor([grid], device=self.network.device)
        ).pooler_output
        ids = self.ids(kind, len(seen), text).to(self.network.device)
        x = language.embed_tokens(ids)
        pad = ids == self._tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>")
        x = x.masked_scatter(pad[..., None], seen.to(x.dtype))
        places = torch.arange(ids.shape[1], device=ids.device).expand(3, 1, -1)
        hidden = language(inputs_embeds=x, position_ids=places, use_cache=False).last_hidden_state
        wanted = torch.isin(ids, torch.tensor(self._tokenizer.convert_tokens_to_ids(list(self._tokens))).to(ids))
        return self._head(hidden[wanted].float()).cpu()


def load_token_reward(
    folder: Path,
    state: Mapping[str, Tensor],
    head: nn.Module,
    tokens: Sequence[str],
    *,
    source: Path,
    device: str = "cpu",
    dtype: str | None = None,
) -> TokenReward:
    """Returns the network of a state, whose names must match one by one, with the folder's configuration and tokenizer;
    the special tokens get the numbers after the tokenizer's own, in their order. `head` is filled, in float32.

    Raises UserError for another network's state or tokenizer, or a folder that lacks either.
    """
    from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLModel

    remedy = "put config.json and the tokenizer's files of the Qwen2-VL-Instruct it began as beside the weights"
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; {remedy}")
    try:
        config = Qwen2VLConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} has no configuration or tokenizer of Qwen2-VL ({error}); {remedy}") from error
    if tokenizer.chat_template is None:
        raise UserError(f"the tokenizer in {folder} has no chat template; {remedy}, tokenizer_config.json included")
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    renamed = modern_names(state)
    parts = {
        key.removeprefix("rm_head."): value.float() for key, value in renamed.items() if key.startswith("rm_head.")
    }
    load_strictly(head, parts, source=f"{source} (rm_head)")
    network = {key: value for key, value in renamed.items() if not key.startswith("rm_head.")}
    rows = network.get("language_model.embed_tokens.weight")
    if rows is not None:
        if max(tokenizer.convert_tokens_to_ids(list(tokens))) >= len(rows):
            raise UserError(f"{source} knows {len(rows)} tokens, the tokenizer in {folder} more; {remedy}")
        config.text_config.vocab_size = len(rows)
    model = placed(pretrained(Qwen2VLModel, None, source=source, config=config, state_dict=network), device, dtype)
    return TokenReward(model, placed(head, device, None), tokenizer, tokens)
