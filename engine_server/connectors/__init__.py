"""What a source and a destination are, how they are found, and the two that we ship."""
