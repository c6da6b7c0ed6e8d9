"""The numbers of the figures: pure functions of nothing but their settings."""
