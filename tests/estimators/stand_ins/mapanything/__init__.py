"""Stands in for MapAnything's package: the same interface, and a network that knows one scene."""
