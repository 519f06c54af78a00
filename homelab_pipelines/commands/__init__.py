"""What the commands of `homelab` do, one module each, imported only when the command runs."""
