"""Settings of the service and of its commands, from flags and environment variables."""
