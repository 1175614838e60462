"""Tables of a destination's schema: definitions, lookups and privileges."""
