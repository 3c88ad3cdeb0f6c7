"""What an operator can say: typed settings with defaults and bounds, and how they are loaded."""
