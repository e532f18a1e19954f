"""Hard negatives: signals, filters, sampling, teacher scores."""
