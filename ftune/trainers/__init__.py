"""Thin builders around TRL's and transformers' trainers, and what makes every run reliable."""
