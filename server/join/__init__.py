"""Machines that join the cluster by a certificate that this server has the cluster sign."""
