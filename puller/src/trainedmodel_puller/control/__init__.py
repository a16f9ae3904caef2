"""The level-triggered loop: reads desired and observed state, and runs the actions of the plan."""
