"""Two sides laid beside each other, property by property (imports no torch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from w2sd_video.diagnosis.sides import Side, tokens_of
from w2sd_video.latents import noise_levels
from w2sd_video.latents.spaces import Relation, compare_spaces, scale_words, shape_words
from w2sd_video.loading.describe import TEXT_ENCODERS
from w2sd_video.loading.fingerprints import difference, same_weights
from w2sd_video.loading.pipeline_families import family_of_class, layouts_apart

UNKNOWN = "unknown"
DIMENSIONS = {
    "in_channels": "latent",
    "cross_attention_dim": "text",
    "joint_attention_dim": "text",
    "text_dim": "text",
    "pooled_projection_dim": "pooled",
    "projection_class_embeddings_input_dim": "size and pooled",
}


PARTS = {  # where each row comes from
    "latent space": "vae",
    "latents": "vae",
    "VAE weights": "vae",
    "latents' scale": "vae",
    "prediction": "scheduler",
    "noise levels": "scheduler",
    "sampling grid": "scheduler",
    "text encoder": "text_encoder",
    "text encoder 2": "text_encoder_2",
    "text encoder 3": "text_encoder_3",
    "tokenizers": "tokenizers",
}


@dataclass(frozen=True)
class Row:
    """A property of both sides, as words; `same` is None where it cannot be told from files."""

    name: str
    strong: str
    weak: str
    same: bool | None

    @property
    def relation(self) -> str:
        return {True: "same", False: "differ", None: UNKNOWN}[self.same]


@dataclass(frozen=True)
class Comparison:
    """What is known of a pair from files: how its latent spaces relate, and more. Fields are None where files do not
    tell; `distance` is how far the networks' weights are apart (`fingerprints.difference`).
    """

    rows: tuple[Row, ...]
    space: Relation
    prediction: bool | None
    network_class: bool | None
    network_weights: bool | None
    distance: float | None


def compare(strong: Side, weak: Side) -> Comparison:
    """Returns everything that the files of two sides tell about each other."""
    vaes, networks, schedulers = (_both(strong, weak, part) for part in ("vae", "network", "scheduler"))
    space = compare_spaces(strong.space, weak.space)
    kept = layouts_apart(strong.class_name, weak.class_name)
    if kept is not None and space.name in ("share", "undecided"):
        space = replace(space, name="bridge", reason=kept)
    network_class = None
    predictions = _words(schedulers, noise_levels.prediction_of)
    prediction = _equal(*predictions)
    kinds = _words(networks, lambda network: str(network.get("_class_name")))
    if networks is not None:
        network_class = _one_family(kinds)
    distance, network_weights = _distance(strong, weak)
    grids, shapes, guided = (
        _words(schedulers, noise_levels.grid),
        _words(networks, _dimensions),
        _words(networks, guidance_of),
    )
    classes = (_text(strong.class_name), _text(weak.class_name))
    rows = [
        Row("pipeline", *classes, _equal(*classes)),
        Row("latent space", space_of(strong), space_of(weak), space.weights),
        Row("latents", *_words(vaes, shape_words), space.shape),
        Row("VAE weights", *_names(strong, weak, "vae"), space.weights),
        Row("latents' scale", *_words(vaes, scale_words), space.scale),
        Row("prediction", *predictions, prediction),
        Row("noise levels", *_words(schedulers, noise_levels.described), space.levels),
        Row("sampling grid", *grids, _equal(*grids)),
        Row("network", *kinds, network_class),
        Row("network weights", *_names(strong, weak, "network"), network_weights),
        Row("conditioning", *shapes, _equal(*shapes)),
        Row("guidance", *guided, _equal(*guided)),
    ]
    rows += _text_rows(strong, weak)
    rows = [_as_borrowed(row, strong, weak) for row in rows]
    return Comparison(
        rows=tuple(rows),
        space=space,
        prediction=prediction,
        network_class=network_class,
        network_weights=network_weights,
        distance=distance,
    )


def space_of(side: Side) -> str:
    """Returns whose latents a side's family has, as people say it; only the VAEs' weights tell for certain."""
    family = family_of_class(side.class_name)
    return UNKNOWN if family is None or not family.vae else family.vae


def _as_borrowed(row: Row, strong: Side, weak: Side) -> Row:
    """With a side's part that is the other side's named so."""
    part = PARTS.get(row.name)
    for side, other, name in ((strong, "weak", "strong"), (weak, "strong", "weak")):
        if part in side.borrowed:
            return replace(row, **{name: f"the {other} side's"}, same=True)
    return row


def guidance_of(network: Mapping[str, Any]) -> str:
    """Returns how a network is guided: "real" (two predictions), "embedded" (the scale is its input), "none"."""
    if network.get("guidance_embeds") or network.get("time_cond_proj_dim"):
        return "embedded"
    return "none (distilled)" if network.get("guidance_embeds") is False else "real"


def _both(strong: Side, weak: Side, part: str) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    found = [side.parts.get(part) for side in (strong, weak)]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _words(
    configs: tuple[Mapping[str, Any], Mapping[str, Any]] | None, words: Callable[[Mapping[str, Any]], str]
) -> tuple[str, str]:
    return (UNKNOWN, UNKNOWN) if configs is None else (words(configs[0]), words(configs[1]))


def _same_part(strong: Side, weak: Side, part: str) -> bool | None:
    if (ours := strong.fingerprint(part)) is None or (theirs := weak.fingerprint(part)) is None:
        return None
    return same_weights(ours, theirs)


def _distance(strong: Side, weak: Side) -> tuple[float | None, bool | None]:
    """How far the networks' weights are apart, motion modules left out where one side has none, and whether they are
    the same.
    """
    ours, theirs = strong.fingerprint("network"), weak.fingerprint("network")
    if ours is None or theirs is None:
        return None, None
    kinds = {side.network.get("_class_name") for side in (strong, weak)}
    if len(kinds) == 2 and "UNetMotionModel" in kinds:
        ours, theirs = ours.without("motion_modules"), theirs.without("motion_modules")
    return difference(ours, theirs), same_weights(ours, theirs)


def _one_family(kinds: tuple[str, str]) -> bool:
    """A motion UNet is made of a 2-D one, so the two go together."""
    return len({kind.replace("UNetMotionModel", "UNet2DConditionModel") for kind in kinds}) == 1


def _dimensions(network: Mapping[str, Any]) -> str:
    return ", ".join(f"{word} {network[key]}" for key, word in DIMENSIONS.items() if network.get(key) is not None)


def _text_rows(strong: Side, weak: Side) -> list[Row]:
    rows = []
    for part in TEXT_ENCODERS:
        if any(part in side.parts or part in side.weights for side in (strong, weak)):
            rows.append(Row(part.replace("_", " "), *_names(strong, weak, part), _same_text(strong, weak, part)))
    shared = sorted(strong.tokenizers.keys() & weak.tokenizers.keys())
    if shared:
        same = all(tokens_of(strong.tokenizers[name]) == tokens_of(weak.tokenizers[name]) for name in shared)
        rows.append(Row("tokenizers", ", ".join(sorted(strong.tokenizers)), ", ".join(sorted(weak.tokenizers)), same))
    return rows


def _same_text(strong: Side, weak: Side, part: str) -> bool | None:
    """As `_same_part`; single files keep SDXL's second encoder in another cut (queries, keys, values in one)."""
    same = _same_part(strong, weak, part)
    cuts = {bool(side.weights[part].prefix) for side in (strong, weak) if part in side.weights}
    return None if same is False and len(cuts) == 2 else same


def _names(strong: Side, weak: Side, part: str) -> tuple[str, str]:
    return _name_of(strong, part), _name_of(weak, part)


def _name_of(side: Side, part: str) -> str:
    found = side.fingerprint(part)
    if found is not None:
        return found.name
    return "none" if side.parts and part not in side.parts and side.kind != "file" else UNKNOWN


def _text(value: str | None) -> str:
    return UNKNOWN if value is None else value


def _equal(ours: str, theirs: str) -> bool | None:
    return None if UNKNOWN in (ours, theirs) else ours == theirs
