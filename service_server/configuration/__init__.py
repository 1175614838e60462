"""Configurations of pipelines: their validation, secrets and schemas."""
