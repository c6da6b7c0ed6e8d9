"""How many steps, and how many of them are reflected: given, a preset's share, or so that W2SD costs as much as plain
sampling (section 5 of the paper). Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from w2sd_video.commands.request import Request
from w2sd_video.errors import UserError

LEAST = 4  # below, not even one step would be reflected


@dataclass(frozen=True)
class Matched:
    """`steps` (T) and `reflections` (lambda) beside `plain_steps` of methods without reflections: T, or with a matched
    cost the N that they cost about as much as.
    """

    plain_steps: int
    steps: int
    reflections: int

    @property
    def evaluations(self) -> int:
        """T + 2 lambda: N, or one or two fewer, as both halvings round down."""
        return self.steps + 2 * self.reflections

    def sentence(self) -> str:
        """What a program says of its choice."""
        return (
            f"matched to {self.plain_steps} evaluations: T {self.steps} and lambda {self.reflections}, "
            f"{self.evaluations} evaluations; without reflections {self.plain_steps} steps"
        )


def match_evaluations(count: int) -> Matched:
    """Returns T = floor(N / 2) and lambda = floor(T / 2) for N = `count` evaluations of plain sampling.

    The paper's own example for N = 50 has T = 24 and lambda = 12 (48 evaluations); its formula gives T = 25 (49).

    Raises:
        UserError: fewer than 4, or no whole number.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < LEAST:
        raise UserError(
            f"match evaluations is {count!r}; give the steps of plain sampling to match, a whole number from {LEAST} on"
        )
    steps = count // 2
    return Matched(count, steps, steps // 2)


def settled_steps(request: Request, own_steps: int, own: int | None = None, *, spare: int = 0) -> Matched:
    """Returns T and lambda, and the steps of methods without reflections: what is given, or chosen to match a cost,
    else the preset's T (`own_steps`) and its share of the steps (`own` of them; None for all but one).

    The last `spare` steps cannot be reflected.

    Raises:
        UserError: more reflections than there can be, or given numbers that matching chooses.
    """
    if request.match_evaluations is not None:
        for flag, given in (("--steps", request.steps), ("--reflections", request.reflections)):
            if given is not None:
                raise UserError(
                    f"--match-evaluations chooses {flag} itself, and {flag} {given} is given; leave one out"
                )
        return match_evaluations(request.match_evaluations)
    steps, given = request.steps or own_steps, request.reflections
    most = steps - spare
    if given is None:
        given = min(most, steps - 1, round((1.0 if own is None else own / own_steps) * steps))
    if given > most:
        why = f" ({steps - 1} by default: most schedules end without noise, and such a step cannot be inverted)"
        raise UserError(
            f"reflections is {given} with {steps} steps; use a whole number from 0 to {most}{why * (steps > 1)}"
        )
    return Matched(steps, steps, given)
