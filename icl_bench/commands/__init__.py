"""The commands of `icl-bench`, one file each: `add_parser` declares it, `run` carries it out.

Declaring a command imports nothing heavy, so that `--help` and completion come at once.
"""
