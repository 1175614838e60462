"""How far a run and a request have come."""
