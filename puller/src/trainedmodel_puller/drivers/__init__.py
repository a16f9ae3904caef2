"""Model servers: one protocol (`base`), one file for each dialect, its quirks in its docstring."""
