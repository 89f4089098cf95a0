"""Answering: one prefill, then greedy, beams, sampled or adaptive."""
