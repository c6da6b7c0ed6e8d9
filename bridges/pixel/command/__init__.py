"""The command that makes pictures with a weak and a strong model of different architectures: `scripts/bridge_image.py`.

The only part of this room that knows how runs are made and written (`w2sd_video.runs.runs` and what belongs to it).
"""
