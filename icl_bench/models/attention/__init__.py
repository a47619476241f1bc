"""The attention function: reads attention probabilities, and changes heads in place."""
