"""From Compose to Kubernetes with nothing lost: read, convert, account for every leaf, write."""
