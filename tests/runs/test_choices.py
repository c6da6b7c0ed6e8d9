"""Which side was the strong one, as letters of a record."""

from __future__ import annotations

from w2sd_video.runs.choices import as_text, share_weak


def test_a_letter_per_selection_says_which_side_it_took() -> None:
    assert as_text([[False], [True], [True]]) == "sww" and as_text([]) == ""
    assert share_weak(["sww", "s"]) == 0.5 and share_weak([]) == 0
