"""One question about pictures, from the shell."""
