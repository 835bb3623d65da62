"""Traffic routers behind one Protocol."""
