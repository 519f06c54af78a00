"""The typed model of homelab.yaml, its loader and its errors (file:line:column). Imports nothing of ours."""
