"""What our HTML pages share: escaped pieces, words, colours and looks."""
