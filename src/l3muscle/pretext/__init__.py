"""Source tasks: what a network learned before it saw muscle (Section 2.2)."""
