"""Reading of lists: pages, time ranges, and the lists inside objects."""
