"""Keeping Dagster itself in order: its storage moved, purged and measured, its finished run workers removed."""
