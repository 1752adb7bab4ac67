"""How frozen weights are stored: one file a way."""
