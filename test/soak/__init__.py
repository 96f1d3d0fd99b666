"""Many messages under random attacks, counted: `make soak`."""
