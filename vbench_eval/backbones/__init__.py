"""The networks behind the dimensions, and where their weights are found (importing this is cheap)."""
