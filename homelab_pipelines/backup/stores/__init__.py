"""Where backups are kept: one small interface, one module per kind of store."""
