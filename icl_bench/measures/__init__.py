"""Pure functions from tokens, attention probabilities and losses to numbers: no model, no files."""
