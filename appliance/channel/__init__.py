"""What our processes say to each other: versioned messages and their framing."""
