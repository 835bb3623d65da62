"""`sluice dashboard`: a live, read-only page of every lineage, from traces to weight."""
