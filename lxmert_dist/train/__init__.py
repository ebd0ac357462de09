"""The one training loop over a DeepSpeed engine: optimiser, schedule, checkpoints, validation."""
