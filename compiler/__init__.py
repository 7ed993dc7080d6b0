"""Compiler: Relax IRModule to artifact."""
