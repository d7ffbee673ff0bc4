"""Latencies that can be trusted: archs in, LatencyRecords out."""
