"""What CI systems show of a run: annotations, summaries and reports in their own formats.

Everything is made from records and comparisons; importing it needs neither torch nor pandas.
"""
