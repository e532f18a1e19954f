"""What mining did, to be judged by a person: one HTML page and a summary in the terminal."""
