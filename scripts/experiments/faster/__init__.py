"""Cached gaps against every other way to spend evaluations: `make score-faster`; results in docs/results/faster.md."""
