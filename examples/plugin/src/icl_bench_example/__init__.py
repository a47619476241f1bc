"""A probe, a report format and a source of models for icl_bench, as another package adds them."""
