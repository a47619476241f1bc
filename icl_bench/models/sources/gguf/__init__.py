"""GGUF files: their headers, the float copies that they are opened from, and the source."""
