"""`sluice demo`: the whole loop in front of the user. Nothing here decides: it applies manifests and shows effects."""
