"""How much of the model volume is used, against its limit."""
