"""Tokens, scopes and encryption keys."""
