"""Dagster code location that carries a homelab from Compose files to GitOps on Kubernetes."""
