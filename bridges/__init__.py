"""Reflection between models that share no latent space: they meet in pixels (App. E.5)."""
