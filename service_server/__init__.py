"""The service: keeps pipelines and their state, and has the engine run them."""
