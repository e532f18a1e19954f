"""The evaluation stage: base against tuned on every test split, with rebuilt indexes, significance and examples."""
