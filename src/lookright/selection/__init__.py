"""Which of the model's own answers become rejected responses."""
