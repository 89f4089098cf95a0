"""How the small backbones that lie in the package came to their weights, tokenizers and pictures."""
