"""Frontends: a model file to a Relax IRModule."""
