"""SynBench: what a synthetic image set lacks, measured against a real one (P1 sec. 3)."""
