"""What executes a graph, one library a file."""
