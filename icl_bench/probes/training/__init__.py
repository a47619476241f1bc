"""Probes over a series of checkpoints."""
