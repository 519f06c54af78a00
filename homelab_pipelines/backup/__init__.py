"""The backup engine: capture, store, manifest, verify, retain, restore, copy. Plain Python, knows no Dagster."""
