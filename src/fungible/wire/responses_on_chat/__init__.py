"""Clients that speak OpenAI's Responses, on backends that speak chat."""
