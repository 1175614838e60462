"""Reconciliation: records of a destination that the lists do not show."""
