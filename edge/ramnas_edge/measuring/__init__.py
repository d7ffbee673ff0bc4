"""Latencies that can be trusted: archs go in, LatencyRecords come out."""
