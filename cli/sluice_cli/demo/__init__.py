"""`sluice demo`: the whole loop in front of the user. Nothing here decides: manifests are applied, effects are shown."""
