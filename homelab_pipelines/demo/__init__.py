"""The demo homelab: a PostgreSQL server with a photo library and a file server's database, and a homelab.yaml for it."""
