"""The figures: an experiment's numbers, how they are drawn, and what they say of the paper's claim."""
