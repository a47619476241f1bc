"""What heads do to each other and to the loss: ablation, patching, attribution, OV circuits."""
