"""What a model can do: generation on held-out rows, metrics by family, before and after."""
