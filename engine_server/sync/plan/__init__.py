"""Second step of a sync: the plan, from the request and its state."""
