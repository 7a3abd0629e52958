"""Which machine is which: addresses, MACs and names."""
