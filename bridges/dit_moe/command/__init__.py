"""The command that samples DiT-MoE, with its routing as the weak-to-strong gap: `scripts/sample_dit_moe.py`.

Like the other picture command it knows how runs are made and written (`w2sd_video.runs.runs`).
"""
