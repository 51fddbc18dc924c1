"""Runs of a user's model and loss that leave no trace, and the objects that client and adversary share."""
