"""Connector interface by idea; import it from ``engine_server.connectors.protocols``."""
