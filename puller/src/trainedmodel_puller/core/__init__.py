"""Pure decisions: no event loop, clock, randomness, file or network."""
