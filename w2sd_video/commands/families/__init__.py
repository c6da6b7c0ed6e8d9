"""The kinds of pairs that the program makes videos and pictures of; `base` says how to write one."""
