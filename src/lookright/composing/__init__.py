"""Prompts about several images, composed of single-image questions."""
