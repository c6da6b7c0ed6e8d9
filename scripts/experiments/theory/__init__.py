"""The paper's theory on models whose answers are known exactly: Gaussian mixtures, experiments on them, and figures."""
