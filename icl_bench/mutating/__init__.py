"""Mutation testing for circuits: planted edits, and whether a suite notices them.

`edits` is the table of edits by name; `heads`, `matrices`, `calls`, `rotary` and `neutral` plant
them; `planting` puts everything back. `behaviour` measures what an edit really changed, `judging`
whether the suite noticed, `mutation` runs all of it, `report` shows it.
"""
