"""Connector interface, registry and configuration, and the connectors that ship with the engine."""
