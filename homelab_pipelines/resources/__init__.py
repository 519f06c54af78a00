"""Dagster resources: they build clients from the inventory and its secrets. No policy."""
