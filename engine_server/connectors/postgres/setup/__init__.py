"""Creation and migration of a destination's tables."""
