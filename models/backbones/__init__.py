"""Feature extractors that every system builds on."""
