"""Raw text to training examples: harvest, prepare, mine, validate."""
