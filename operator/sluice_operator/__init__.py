"""The control plane: observes, decides, applies. Never torch, never the text of a trace."""
