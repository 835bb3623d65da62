"""`sluice rollout`, the same as `kubectl sluice rollout`: look at a rollout, wait for it, and take it by the hand."""
