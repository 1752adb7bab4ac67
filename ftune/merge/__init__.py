"""Adapters into models, tensor by tensor, and what models are exported to."""
