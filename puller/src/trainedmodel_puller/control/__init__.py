"""The level-triggered loop: what is wanted, what is there, and the actions between them."""
