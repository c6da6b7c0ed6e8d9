"""W2SD beside every other way to spend the same rows, on a pair of one's own: `w2sd arena`."""
