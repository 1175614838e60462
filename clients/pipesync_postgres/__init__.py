"""Connections of both servers to Postgres: URLs, hosts, TLS and passwords."""
