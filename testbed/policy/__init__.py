"""NetworkPolicies of the built-in cluster: rules.py says what is allowed, engine.py keeps the nodes' nftables so.

Real clusters bring an engine of their own (kind does); this one exists because the built-in cluster has to prove that
policies hold for guests as for pods.
"""
