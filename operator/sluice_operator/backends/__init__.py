"""Compute backends behind one Protocol."""
