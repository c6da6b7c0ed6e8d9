"""`w2sd arena` on five bundled beds: `python scripts/score_arena.py`; results in docs/results/arena.md."""
