"""Synthetic queries: a language model writes them, a round-trip search keeps the good ones."""
