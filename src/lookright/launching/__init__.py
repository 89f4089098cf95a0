"""Jobs of a sweep, on SLURM or as processes of this machine: started, watched, begun again, their failures told."""
