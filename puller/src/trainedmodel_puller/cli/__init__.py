"""The command line: flags, the `run` and `plan` commands."""
