"""`python -m w2sd_video`, the program `w2sd`."""

from w2sd_video.commands.app import main

raise SystemExit(main(program="python -m w2sd_video"))
