"""Roadmap stage 4: the applications on Kubernetes."""
