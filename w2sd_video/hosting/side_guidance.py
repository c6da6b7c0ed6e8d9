"""A side's guidance in a replayed call: what the pipeline's own rule makes of its predictions at another scale.

Of two halves the unconditional one is moved along the line through both, so that the rule, whatever it is, applies at
that scale. Where there are others, or the rule is not known, the scale that the pipeline reads in its loop is changed.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping

import torch

from w2sd_video.errors import UserError
from w2sd_video.hosting.calls import CallGuidance
from w2sd_video.hosting.evaluations import Evaluations
from w2sd_video.hosting.outputs import as_halves, moved, weights_of
from w2sd_video.hosting.own_scale import OwnScale
from w2sd_video.hosting.refusals import no_halves
from w2sd_video.hosting.sides import Side
from w2sd_video.hosting.wishes import Part, Visit, nearer


class SideGuidance:
    """Asks the pipeline for its combination of the outputs of the latest evaluation, at a side's guidance.

    Args:
        name: of the pipeline's class.
        guidance: how the user's call guides.
        forced: whether the pipeline is given a scale that only makes it prepare both halves of guidance.
        evaluations: of the networks.
        parts: the latents that are sampled, as long as they are.
        own_scale: where the pipeline keeps its scale.
    """

    def __init__(
        self,
        name: str,
        guidance: CallGuidance,
        forced: bool,
        evaluations: Evaluations,
        parts: Mapping[int, Part],
        own_scale: OwnScale,
    ) -> None:
        self._name, self._guidance, self._forced = name, guidance, forced
        self._evaluations, self._parts, self._own_scale = evaluations, parts, own_scale
        self._scales: dict[tuple[int, ...], tuple[bool, float]] = {}

    def visits(self, side: Side) -> Generator[Visit, None, bool]:
        """Has the parts' output be that of the side's guidance; False where the pipeline's own is that."""
        scale = self._guidance.scale if self._forced and side.guidance is None else side.guidance
        outputs, rows = self._evaluations.outputs, self._evaluations.rows
        batch = len(next(iter(self._parts.values())).sample)
        if scale is None or (scale == 1 and rows == [batch]):
            return False
        halves = as_halves(outputs, rows, batch)
        if halves is None:
            if (yield from self._at_own_scale(side, scale)):
                return True
            raise UserError(no_halves(self._name, scale, rows, batch))
        key = tuple(rows)
        if key not in self._scales or scale != 1:  # a scale may change on the way
            part = next(iter(self._parts.values()))
            own, seen = part.native, []
            for half in (halves.first, halves.second):
                yield Visit(side, halves.joined(half, half))
                seen.append(part.output)
            weights = None if halves.others else weights_of(own, *seen)
            if halves.others:  # guided by these too, each by a scale of its own
                leaning = nearer(own, *seen)
                weights = (self._guidance.scale, 0.0) if leaning[0] else (0.0, self._guidance.scale)
            if weights is None and (scale != 1 or halves.uneven):
                if (yield from self._at_own_scale(side, scale)):
                    return True
                raise UserError(
                    f"{self._name} combines its two predictions in a way that reflection does not know, "
                    "so that no side can have a guidance of its own but 1; give the sides the call's guidance or 1"
                )
            known = weights if weights is not None else nearer(own, *seen)
            self._scales[key] = known[0] >= known[1], max(known)
        first, measured = self._scales[key]
        factor = 0.0 if scale == 1 else (scale - 1) / (measured - 1)
        if factor == 1 or abs(factor - 1) < 1e-6:
            return False
        conditional, unconditional = (halves.first, halves.second) if first else (halves.second, halves.first)
        other = moved(conditional, unconditional, factor)
        yield Visit(side, halves.joined(conditional, other) if first else halves.joined(other, conditional))
        return True

    def _at_own_scale(self, side: Side, scale: float) -> Generator[Visit, None, bool]:
        """The same by the scale that the pipeline reads in its loop, whatever it makes of how many predictions.

        What it makes of one set of predictions is asked for at three scales of more than 1, so that none is left out,
        and gone on from where it changes evenly with the scale. Where it does not (projections, norms), it is asked
        for at the side's own. False where the pipeline does not read the scale, or takes the side's for no guidance.
        """
        own, parts = self._own_scale.value, list(self._parts.values())
        if own is None or own <= 1 or len(parts) > 1:
            return False
        (part,) = parts
        wanted, seen = scale - self._own_scale.offset, []
        for asked in (own, own + 1, own + 2):
            yield Visit(side, self._evaluations.outputs, scale=asked)
            seen.append(part.output)
        size = max(float(each.abs().amax()) for each in seen)
        slope = seen[1] - seen[0]
        if float(slope.abs().amax()) <= 1e-6 * size:
            return False
        if float((seen[2] - seen[1] - slope).abs().amax()) <= 1e-4 * float(slope.abs().amax()) + 1e-6 * size:
            part.output = torch.add(seen[0], slope, alpha=wanted - own)
            return True
        if wanted <= 1:
            return False
        yield Visit(side, self._evaluations.outputs, scale=wanted)
        return True
