"""`bootfarm doctor`: plays a PXE client against a running site and says what stands in its way."""
