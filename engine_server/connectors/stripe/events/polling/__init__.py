"""Polling of the events that the API lists, from a cursor."""
