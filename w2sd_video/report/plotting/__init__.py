"""Plots drawn with PIL alone: a sheet of panels, each with axes and marks (imports no torch)."""

from w2sd_video.report.plotting.drawing import draw
from w2sd_video.report.plotting.marks import Area, Arrows, Bars, Contours, Dots, Fan, Line, Mark, Note, Rule
from w2sd_video.report.plotting.sheets import Axis, Panel, Sheet

__all__ = [
    "Area",
    "Arrows",
    "Axis",
    "Bars",
    "Contours",
    "Dots",
    "Fan",
    "Line",
    "Mark",
    "Note",
    "Panel",
    "Rule",
    "Sheet",
    "draw",
]
