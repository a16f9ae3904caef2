"""The command line beside `run`: flags and `convert`."""
