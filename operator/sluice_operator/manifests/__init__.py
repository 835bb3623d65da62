"""Builders of child objects, pure, one module a kind."""
