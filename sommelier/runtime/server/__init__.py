"""Servers: the Open Inference Protocol v2 over deployments, by REST and gRPC."""
