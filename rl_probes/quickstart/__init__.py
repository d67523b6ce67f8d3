"""`rl-probes quickstart`: from images to agents in one command, each step in a file of its own."""
