"""Preference tuning of vision-language models on several images."""
