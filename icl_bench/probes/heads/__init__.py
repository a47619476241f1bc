"""Probes that score heads: attention, composition, attribution, copying."""
