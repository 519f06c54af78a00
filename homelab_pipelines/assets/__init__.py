"""One package per roadmap stage, one module per deliverable; thin over the engines."""
