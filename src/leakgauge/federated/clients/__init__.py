"""Clients: alone, in a group, and in a network of neighbors."""
