"""Export of a finished model in fewer bits."""
