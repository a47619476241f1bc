"""Probes of what is lost with heads off."""
