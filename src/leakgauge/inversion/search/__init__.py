"""Search: restarts, their schedule and consensus, and the status of the result."""
