"""The whole loop on this machine, in one command."""
