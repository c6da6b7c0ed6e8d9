"""The bundled DiT-MoE: a small one trained on handwritten digits, with a judge that scores what it draws."""

from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent / "weights"  # a DiTMoEPipeline folder, with the judge beside it
