"""LTSP 23's ltsp.conf as an lts.conf: read, mapped where it maps, and told where it does not."""
