"""What a reflected call did, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from w2sd_video.hosting.conditioning import Counter


@dataclass
class Run:
    """Counts of the latest pipeline call inside `with reflected(...)`; all zero before the first.

    Attributes:
        num_steps: steps made (fewer than asked for after an interrupt).
        num_reflections: reflections made.
        num_skipped: reflections left out because the weak model knows no level so noisy (only through pixels).
        num_encodes, num_decodes: passes of pictures or videos through a VAE's halves inside reflections: through
            pixels, and to be rewarded (two for each selection, of the frames that are rewarded).
        choices: of each selection of method "w2sd-auto", of each sample, whether the second (weak) side was taken as
            the strong one; reading it waits for the device.
        notes: what the user should know about how it was done.
    """

    num_steps: int = 0
    num_reflections: int = 0
    num_skipped: int = 0
    num_encodes: int = 0
    num_decodes: int = 0
    notes: list[str] = field(default_factory=list)
    _counter: Counter = field(default_factory=Counter, repr=False)
    _gaps: list[Tensor] = field(default_factory=list, repr=False)
    _choices: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def num_evaluations(self) -> int:
        """Evaluations of a side; a guided one counts once: T + 2 lambda for W2SD (`ReflectionConfig.evaluations`).

        Where the samples of a batch choose different sides, each side is evaluated on all of them.
        """
        return self._counter.evaluations

    @property
    def num_forwards(self) -> int:
        """Calls of a denoising network."""
        return self._counter.forwards

    @property
    def num_rows(self) -> int:
        """Batch rows through a denoising network (sample-forwards), the unit of cost; a guided evaluation is two."""
        return self._counter.rows

    @property
    def num_control_calls(self) -> int:
        """Calls of a ControlNet, each of several counted; they are not among the forwards and rows."""
        return self._counter.control_calls

    @property
    def choices(self) -> list[list[bool]]:
        return [chosen.tolist() for chosen in self._choices]

    @property
    def gaps(self) -> list[float]:
        """The norm ||x~ - x|| of each reflection's move, over the whole latent; reading it waits for the device."""
        return [float(gap) for gap in self._gaps]

    def note(self, message: str) -> None:
        """Adds to `notes` what is not among them yet."""
        if message not in self.notes:
            self.notes.append(message)

    def reset(self) -> None:
        self.num_steps = self.num_reflections = self.num_skipped = self.num_encodes = self.num_decodes = 0
        self._counter = Counter()
        self._gaps, self._choices = [], []
