"""Removal of a destination's tables, and its plan."""
