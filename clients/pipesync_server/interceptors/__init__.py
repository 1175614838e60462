"""Interceptors around every call: access, budgets, request ids, errors and one log event."""
