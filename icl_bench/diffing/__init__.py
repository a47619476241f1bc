"""What changed between two models, A and B, and which layer or head explains it.

`sides` reads what was given, `measuring` measures what is missing of both, one model in memory at
a time, `comparing` compares, and `explaining` restores single places of B from A (`grafting`) and
finds the one that brings most back. `difference` holds the result.
"""
