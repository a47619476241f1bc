"""Who carries out the parts of a run: processes of this machine."""
