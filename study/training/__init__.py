"""One training and its scores, in torch alone."""
