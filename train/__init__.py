"""The stage that fine-tunes: training examples in, checkpoints out."""
