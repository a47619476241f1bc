"""Where a model comes from: built-in, hub, folder, GGUF file, callable, series."""
