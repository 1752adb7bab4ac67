"""Ways to make one training set of several sources: one file a way."""
