"""A virtual rack: a network namespace, QEMU nodes and a real control plane."""
