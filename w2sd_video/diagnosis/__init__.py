"""A doctor for pairs: whether two sides can be reflected, from their files, and what the reflection would do.

`program.main` is the command; the modules before the measuring import no torch.
"""
