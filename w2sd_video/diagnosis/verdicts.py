"""Whether two sides can be reflected, and how: one word, with the reason (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from w2sd_video.diagnosis.comparing import Comparison, Row, compare
from w2sd_video.diagnosis.sides import Side, borrowing
from w2sd_video.latents import noise_levels
from w2sd_video.latents.spaces import IMAGE_VAES, RELATIONS
from w2sd_video.loading.pipeline_families import FROM_TEXT, family_of_class, start_of_class

VERDICTS: Mapping[str, str] = {
    **RELATIONS,
    "refuse": "cannot be a pair",
    "undecided": "a side has to be fetched before it can be judged",
}


@dataclass(frozen=True)
class Verdict:
    """One of `VERDICTS`, why, and what was compared for it; `remarks` change nothing but should be known."""

    name: str
    reason: str
    rows: tuple[Row, ...] = ()
    remarks: tuple[str, ...] = ()
    distance: float | None = field(default=None)

    @property
    def reflects_directly(self) -> bool:
        return self.name == "share"


def judge(strong: Side, weak: Side | None, *, gaps: tuple[str, ...] = (), adapted: bool = False) -> Verdict:
    """Returns the verdict on two sides, or on one whose network serves both (`weak` None).

    Args:
        gaps: what else differs between the sides (guidance, LoRA ...), in words.
        adapted: whether a motion adapter makes videos of checkpoints that make pictures.
    """
    if weak is None:
        return _alone(strong, gaps)
    adapted = adapted or _lends_motion(strong, weak)
    ours, theirs = borrowing(strong, weak), borrowing(weak, strong)
    if ours.unknown or theirs.unknown:
        return _unfetched(ours, theirs)
    found = compare(ours, theirs)
    remarks = (*ours.notes, *theirs.notes, *_remarks(ours, theirs, found))
    for name, reason in (
        *(("refuse", reason) for reason in _unfit(ours, theirs, adapted)),
        *_apart(ours, theirs, found, adapted),
    ):
        return Verdict(name, reason, found.rows, remarks, found.distance)
    if found.network_weights and not gaps and ours.class_name == theirs.class_name:
        return Verdict(
            "refuse",
            "both sides have the same network weights and nothing else differs, so there is no gap: name one "
            "(--weak-guidance, --lora, --weak-prompt ...) or give another checkpoint",
            found.rows,
            remarks,
            found.distance,
        )
    return Verdict("share", _shared(found, gaps), found.rows, remarks, found.distance)


def _alone(strong: Side, gaps: tuple[str, ...]) -> Verdict:
    rows: tuple[Row, ...] = ()
    remarks = strong.notes
    if not strong.unknown:
        found = compare(strong, strong)
        rows, remarks = found.rows, (*remarks, *_remarks(strong, strong, found))
        if unfit := _unfit(strong, strong, adapted=True):
            return Verdict("refuse", unfit[0], rows, remarks)
    if gaps:
        return Verdict("share", f"one network serves both sides, which differ in {', '.join(gaps)}", rows, remarks)
    reason = (
        f"{strong.given} is both sides and nothing differs: name a gap (--weak-guidance, --lora, --weak-prompt ...), "
        "or give --weak"
    )
    return Verdict("refuse", reason, rows, remarks)


def _lends_motion(strong: Side, weak: Side) -> bool:
    """Whether loading gives a weak SDXL, which makes pictures, the motion modules of the strong side."""
    large = (weak.class_name or "").startswith("StableDiffusionXL")
    return large and (strong.class_name or "").startswith("AnimateDiffSDXL") and "motion_adapter" in strong.parts


def _unfetched(ours: Side, theirs: Side) -> Verdict:
    names = [side.given for side in (ours, theirs) if side.unknown]
    return Verdict(
        "undecided",
        f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} to be fetched before VAE, schedule and text "
        "encoders can be compared: the configs and weights are not on this machine",
        (),
        (*ours.notes, *theirs.notes),
    )


def _unfit(ours: Side, theirs: Side, adapted: bool) -> list[str]:
    """Why these cannot be a pair at all."""
    found = []
    for side in (ours, theirs):
        network, vae = side.network, side.parts.get("vae", {})
        takes, gives = network.get("in_channels"), network.get("out_channels")
        if _told_more(side):
            continue
        if takes is not None and gives is not None and takes != gives:
            found.append(
                f"the network of the {side.role} side {side.given} takes {takes} channels and returns {gives}: it is "
                "told more than a noisy latent (9 channels are inpainting, 8 editing); give a text-to-image checkpoint"
            )
        channels = vae.get("latent_channels", vae.get("z_dim"))
        if takes is not None and channels is not None and takes not in (channels, 4 * channels):
            found.append(
                f"the network of the {side.role} side {side.given} takes {takes} channels and its VAE makes "
                f"{channels}: parts of two checkpoints; give one whole"
            )
    if ours.makes_videos != theirs.makes_videos and theirs.kind != "network" and not adapted:
        videos, pictures = (ours, theirs) if ours.makes_videos else (theirs, ours)
        through_pixels = videos is ours and videos.parts.get("vae", {}).get("_class_name") in IMAGE_VAES
        if not through_pixels:
            found.append(
                f"{videos.given} makes videos ({videos.class_name}) and {pictures.given} pictures "
                f"({pictures.class_name}): "
                + (
                    "a video VAE's latents mix several frames, so a picture says nothing of them"
                    if videos is ours
                    else "the weak side has to be able to judge one picture"
                )
                + "; give two of one kind"
            )
    return found


def _told_more(side: Side) -> bool:
    """Whether the networks of a side's pipelines are known to be told more than a latent (a first frame, a mask)."""
    family = family_of_class(side.class_name)
    of_video = family is not None and family.makes_videos and not family.name.startswith("AnimateDiff")
    return of_video or start_of_class(side.class_name) not in (None, FROM_TEXT)


def _apart(ours: Side, theirs: Side, found: Comparison, adapted: bool) -> list[tuple[str, str]]:
    """Why they cannot be reflected directly, or cannot be known to, with the verdict."""
    space = found.space
    if space.name not in ("share", "undecided"):
        return [(space.name, space.reason)]
    if ours.makes_videos and not theirs.makes_videos and theirs.kind != "network" and not adapted:
        return [("bridge", "the weak side makes pictures and sees the strong side's videos frame by frame")]
    if space.name == "share":
        return []
    where = [side.given for side in (ours, theirs) if not side.parts or "vae" not in side.weights]
    return [("undecided", f"{space.reason}: not all files of {' and '.join(where)} are here")]


def _remarks(ours: Side, theirs: Side, found: Comparison) -> list[str]:
    remarks = []
    for side in (ours, theirs) if theirs is not ours else (ours,):
        kind = str(side.parts.get("scheduler", {}).get("_class_name", ""))
        if kind and kind not in noise_levels.REFLECTED:
            taking = "Euler" if noise_levels.is_flow(side.parts["scheduler"]) else "DDIM"
            remarks.append(
                f"{kind} of the {side.role} side cannot be reflected: {taking} on its noise levels takes over"
            )
    if found.prediction is False and found.space.path:
        remarks.append("the sides predict different things (noise, velocity ...): each is converted, which is exact")
    schedules = {
        noise_levels.described(side.parts["scheduler"]) for side in (ours, theirs) if "scheduler" in side.parts
    }
    if found.space.levels and len(schedules) == 2:
        remarks.append("the noise levels are walked through differently: the strong side's grid is used for both")
    texts = [row for row in found.rows if row.name.startswith(("text encoder", "tokenizers")) and row.same is False]
    if texts:
        remarks.append(f"{', '.join(row.name for row in texts)} differ: each side encodes the prompts itself")
    guided = next(row for row in found.rows if row.name == "guidance")
    if guided.same is False:
        remarks.append(
            f"guidance is {guided.strong} on the strong side and {guided.weak} on the weak one: one number would mean "
            "two things, so give --weak-guidance too"
        )
    if found.distance is not None and found.distance > 1:
        remarks.append(
            f"the networks' weights are {found.distance:.0%} apart: they were not trained from one another, so expect "
            "a large gap"
        )
    elif found.distance is not None and 0 < found.distance < 1e-3:
        remarks.append(f"the networks' weights are only {found.distance:.2%} apart: expect a small gap")
    return remarks


def _shared(found: Comparison, gaps: tuple[str, ...]) -> str:
    text = found.space.reason
    if found.network_class is False:
        text += ", in two architectures: no bridge is needed"
    if found.distance:
        text += f"; the networks' weights are {found.distance:.1%} apart"
    return text + (f"; beside them the sides differ in {', '.join(gaps)}" if gaps else "")
