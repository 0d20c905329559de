"""A synthetic month whose every cost is known, with the faults that real months have.

For exploring, and for proving: what the public import commands make of its files must give the
truth back. Everything in it is simulated; no customer, price or invoice is real.
"""
