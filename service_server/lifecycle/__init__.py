"""Lifecycle of continuous pipelines: decides on their steps, schedules and executes them."""
