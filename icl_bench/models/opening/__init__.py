"""From a spec to an open model: loading, checks, streaming of checkpoints."""
