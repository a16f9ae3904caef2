"""One pass for one service: read all, plan, write the difference."""
