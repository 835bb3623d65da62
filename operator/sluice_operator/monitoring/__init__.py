"""What Prometheus and Grafana see of the operator: one catalogue of metrics, and what is generated from it."""
