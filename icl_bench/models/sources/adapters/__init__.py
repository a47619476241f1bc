"""Adapters on a base: the source, and how the base of an adapter is found."""
