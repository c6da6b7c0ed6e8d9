"""What the bridge does for the bundled picture pair, as an oracle counts it."""
