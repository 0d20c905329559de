"""Engines that the portable engine is measured against, and the machinery to measure them."""
