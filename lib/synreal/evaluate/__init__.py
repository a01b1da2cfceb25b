"""Everything that is computed from predictions."""
