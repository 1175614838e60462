"""Catalog of the streams in the installed stripe package, with facts about each list."""
