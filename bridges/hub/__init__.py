"""W2SD for diffusers' modular pipelines; `w2sd export-block --family NAME FOLDER` writes what the Hub holds."""
