"""What the commands run, from a composed config to the files of a run."""
