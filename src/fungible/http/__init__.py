"""A small HTTP/1.1 client for many concurrent answers that arrive in pieces.

It exists because of what a gateway in Python can spend per request and per streamed chunk:
see `docs/design/dependencies.md`. The parser is `httptools` (llhttp).
"""
