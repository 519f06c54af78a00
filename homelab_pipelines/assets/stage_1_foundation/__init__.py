"""Roadmap stage 1: the foundation services."""
