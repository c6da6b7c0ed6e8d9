"""The command that makes pictures of a pair in one latent space, by any gap: `scripts/generate_image.py`."""
