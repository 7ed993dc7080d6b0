"""Finds the decisions of schedule rules by measuring, and keeps them in a database."""
