"""Few-shot transfer of latencies between devices."""
