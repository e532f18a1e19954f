"""One folder that every reader loads: written, checked in each of them, described, pushed."""
