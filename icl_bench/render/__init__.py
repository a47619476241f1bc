"""What people read, made from RunRecords alone: terminal, Markdown, CSV.

`files.write_reports` writes the report files of a run, `terminal.summary` gives the text for
pytest's terminal summary. Nothing here needs a model, and importing it needs no torch or pandas.
"""
