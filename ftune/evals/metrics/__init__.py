"""What completions are worth, as text: one file a family of metrics."""
