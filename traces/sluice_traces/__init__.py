"""Trace files to training rows: label, convert, pair, split, publish. Without torch, and without pydantic per step."""
