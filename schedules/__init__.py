"""Schedules: how each workload is computed on each kind of machine."""
