"""What of a model trains: adapters, or the weights."""
