"""The demo homelab: a PostgreSQL server with two realistic databases, and a homelab.yaml that describes it."""
