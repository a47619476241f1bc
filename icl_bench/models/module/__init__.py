"""What holds of a transformers module by itself: vocabulary, losses, batches, devices, families."""
