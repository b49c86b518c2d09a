"""Turns an ordinary Linux machine into a small Kubernetes cluster for Berth's tests and examples.

Called as `python -m testbed COMMAND`. It must not import the operator: the product never depends on its test bench.
"""
