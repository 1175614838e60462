"""Syncs in three steps: checks of the request, a plan, and a run through the stages."""
