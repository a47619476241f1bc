"""Probes on natural text and questions."""
