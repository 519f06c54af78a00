"""A real Kubernetes cluster for tests: etcd, API server, controllers, scheduler, and nodes whose pods really run.

`cluster.py` has the fixture and what tests may do with it; read it first. The programs come from `go.mod` here.
"""
