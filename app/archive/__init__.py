"""Segmenting an archive: scans by address, a manifest of rows, one process or a Ray cluster.

places (files by address) ← manifest (rows) ← worker (one row) ← engines (many rows) ← archive (the command).
"""
