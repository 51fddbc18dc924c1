"""Search: restarts, halving and consensus, and the status of the result."""
