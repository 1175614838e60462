"""Pipelines that run by themselves."""
