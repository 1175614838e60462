"""Background loops that survive every exception, and their heartbeats."""
