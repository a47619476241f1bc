"""One run: models are opened, measured and judged, and what was measured is kept."""
