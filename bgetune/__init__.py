"""The shared core of bgetune: what every stage uses and none of them owns. Imports no stage."""

__version__ = "0.1.0"
