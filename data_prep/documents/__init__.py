"""From documents to passages, and to the pairs of query and passage that documents give by themselves."""
