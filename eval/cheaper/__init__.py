"""Cheaper passage vectors, a file a head: what each way of keeping them finds, how fast, in how many bytes."""
