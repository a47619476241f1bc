"""RunRecords -> HTML pages that work alone: offline, from a mail attachment, on a phone, on paper.

`page` is the shell that every page has: template, style, theme, charting script, embedded data.
"""
