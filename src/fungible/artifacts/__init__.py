"""The portable model: one set of weights, two graph formats, several precisions."""
