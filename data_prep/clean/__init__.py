"""What is taken out of a set: passages that say the same, of no use, in another language; queries training knows."""
