"""How both servers reach a Postgres: connection URLs, hosts, TLS and passwords."""
