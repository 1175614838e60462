"""Third step of a sync: the run of the plan through its stages."""
