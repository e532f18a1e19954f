"""Indexes over one corpus: dense (FAISS) and BM25."""
