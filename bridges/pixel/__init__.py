"""Reflection through pixels, between models that share no latent space (App. E.5)."""
