"""Scores of pictures: how well people would like them, how well they follow their prompts, how real their set is."""
